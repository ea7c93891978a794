"""A meter with a load profile, made of pymodbus 3.0, as an independent peer of our collection of records.

    pymodbus_meter.py window tcp             Modbus TCP on a free port of the loopback
    pymodbus_meter.py file rtu-over-tcp      RTU frames on a free port of the loopback

Prints "ready PORT". Unit 1 keeps the last 50 records, one for each 2 seconds of UTC, each the end of its interval:

    +0..+1   seconds since 2000-01-01T00:00
    +2..+3   those seconds divided by 2, a counter
    +4       the counter's lowest 15 bits

`window`: holding register 100 is the place of the newest record in a ring of places 0 to 49, register 101 how many are
written, and a number written to register 110 puts that place into the window from 120 on.

`file`: input registers 100 and 101 are the number of the newest record, counted from 2000, 102 and 103 that of the oldest;
record n stands in place n modulo 50, 5 file records each, from record 7 of file 4 on; a file has the records 7 to 106.

pymodbus decodes the requests; it has no store for file records, and its own encoding of their answer is not that of the
specification (the group's length and its reference type are the other way round), so both are here.
"""

import asyncio
import struct
import sys
import time

from pymodbus.datastore import ModbusServerContext, ModbusSlaveContext
from pymodbus.datastore.store import BaseModbusDataBlock
from pymodbus.file_message import ReadFileRecordRequest, ReadFileRecordResponse
from pymodbus.pdu import ModbusExceptions
from pymodbus.server.async_io import ModbusTcpServer
from pymodbus.transaction import ModbusRtuFramer, ModbusSocketFramer

UNIT = 1
CAPACITY = 50
EVERY_S = 2
BEGIN_OF_2000 = 946684800
RECORD = 5


def newest():
    """Number of the newest record, counted from 2000."""
    return (int(time.time()) - BEGIN_OF_2000) // EVERY_S


def record(number):
    return [number * EVERY_S >> 16, number * EVERY_S & 0xFFFF, number >> 16, number & 0xFFFF, number & 0x7FFF]


def in_place(place):
    """The record that stands in a place now."""
    last = newest()
    return record(last - (last - place) % CAPACITY)


class Registers(BaseModbusDataBlock):
    """Registers that are made when they are asked for."""

    def __init__(self):
        self.selected = 0

    def words(self):
        last = newest()
        oldest = last - CAPACITY + 1
        if sys.argv[1] == "file":
            return {100: last >> 16, 101: last & 0xFFFF, 102: oldest >> 16, 103: oldest & 0xFFFF}
        window = {120 + n: word for n, word in enumerate(in_place(self.selected))}
        return {100: last % CAPACITY, 101: CAPACITY, 110: self.selected, **window}

    def validate(self, address, count=1):
        return all(at in self.words() for at in range(address, address + count))

    def getValues(self, address, count=1):
        words = self.words()
        return [words[at] for at in range(address, address + count)]

    def setValues(self, address, values):
        self.selected = values[0] if isinstance(values, list) else values


class FileResponse(ReadFileRecordResponse):
    def encode(self):
        parts = b"".join(
            struct.pack(f">BB{len(words)}H", 1 + 2 * len(words), 6, *words) for words in self.records
        )
        return struct.pack("B", len(parts)) + parts


class FileRequest(ReadFileRecordRequest):
    def execute(self, context):
        found = []
        for run in self.records:
            place, within = divmod(run.record_number - 7, RECORD)
            place += (run.file_number - 4) * 20
            if run.file_number < 4 or not 0 <= place < CAPACITY or within or run.record_length != RECORD:
                return self.doException(ModbusExceptions.IllegalAddress)
            found.append(in_place(place))
        return FileResponse(found)


async def serve(framer):
    registers = Registers()
    unit = ModbusSlaveContext(hr=registers, ir=registers, zero_mode=True)
    server = ModbusTcpServer(
        ModbusServerContext(slaves={UNIT: unit}, single=False),
        framer=framer,
        address=("127.0.0.1", 0),
        allow_reuse_address=True,
    )
    server.decoder.register(FileRequest)
    serving = asyncio.ensure_future(server.serve_forever())
    await server.serving
    print(f"ready {server.server.sockets[0].getsockname()[1]}", flush=True)
    await serving


asyncio.run(serve(ModbusSocketFramer if sys.argv[2] == "tcp" else ModbusRtuFramer))
