"""A Modbus server made of pymodbus 3.0, as an independent peer of our master.

    pymodbus_server.py tcp            Modbus TCP on a free port of the loopback
    pymodbus_server.py rtu-over-tcp   RTU frames on a free port of the loopback
    pymodbus_server.py rtu DEVICE     RTU on a serial line

Prints "ready PORT" (0 for a serial line). Serves 2000 coils and discrete inputs and 200 registers of each
kind as unit 1, filled as `modbus_peers.rs` says.
"""

import asyncio
import sys

from pymodbus.datastore import ModbusSequentialDataBlock, ModbusServerContext, ModbusSlaveContext
from pymodbus.server.async_io import ModbusSerialServer, ModbusTcpServer
from pymodbus.transaction import ModbusRtuFramer, ModbusSocketFramer

UNIT = 1


def image():
    def block(count, value):
        return ModbusSequentialDataBlock(0, [value(i) for i in range(count)])

    unit = ModbusSlaveContext(
        co=block(2000, lambda i: i % 3 == 0),
        di=block(2000, lambda i: i % 5 == 0),
        hr=block(200, lambda i: (i * 331 + 7) & 0xFFFF),
        ir=block(200, lambda i: (i * 257 + 11) & 0xFFFF),
        zero_mode=True,
    )
    return ModbusServerContext(slaves={UNIT: unit}, single=False)


def ready(port):
    print(f"ready {port}", flush=True)


async def serve_tcp(framer):
    server = ModbusTcpServer(image(), framer=framer, address=("127.0.0.1", 0), allow_reuse_address=True)
    serving = asyncio.ensure_future(server.serve_forever())
    await server.serving
    ready(server.server.sockets[0].getsockname()[1])
    await serving


async def serve_rtu(device):
    server = ModbusSerialServer(image(), framer=ModbusRtuFramer, port=device, baudrate=115200)
    await server.start()
    ready(0)
    await server.serve_forever()


def main():
    kind, *rest = sys.argv[1:]
    if kind == "tcp":
        return serve_tcp(ModbusSocketFramer)
    if kind == "rtu-over-tcp":
        return serve_tcp(ModbusRtuFramer)
    return serve_rtu(rest[0])


asyncio.run(main())
