//! System calls that no safe wrapper offers: `adjtimex`, and the serial port's RS-485 and low-latency modes.
//! The only module of the agent with `unsafe`; each use names why it is sound. Decides nothing.
#![expect(unsafe_code, reason = "rustix offers neither adjtimex nor the serial ioctls")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Whether the kernel considers the wall clock synchronised (`adjtimex(2)`: not `TIME_ERROR`).
#[must_use]
pub fn clock_is_synchronised() -> bool {
    // SAFETY: `timex` is plain data, for which all zeroes is valid; `modes` 0 makes the call read only, and it
    // writes nothing but the struct it is given.
    let (state, status) = unsafe {
        let mut timex: libc::timex = std::mem::zeroed();
        (libc::adjtimex(&raw mut timex), timex.status)
    };
    state >= 0 && state != libc::TIME_ERROR && status & libc::STA_UNSYNC == 0
}

/// Lets the driver switch the transmitter on while sending (`TIOCSRS485`, Documentation/driver-api/serial/
/// serial-rs485.rst of the kernel).
///
/// # Errors
/// What the driver says; `ENOTTY` where it knows no RS-485 mode.
pub fn set_rs485(port: BorrowedFd<'_>) -> io::Result<()> {
    let mut mode = Rs485 { flags: SER_RS485_ENABLED | SER_RS485_RTS_ON_SEND, ..Rs485::default() };
    // SAFETY: `Rs485` has the kernel's layout (32 bytes, fixed since Linux 2.6.35); the driver reads and
    // writes it only during the call.
    check(unsafe { libc::ioctl(port.as_raw_fd(), libc::TIOCSRS485, &raw mut mode) })
}

/// Asks the driver to hand over each character at once instead of collecting them (`ASYNC_LOW_LATENCY`; an FTDI
/// adapter otherwise waits up to 16 ms).
///
/// # Errors
/// What the driver says; `ENOTTY` or `EINVAL` where it has no such mode, `Unsupported` where it passes over the wish
/// in silence.
pub fn set_low_latency(port: BorrowedFd<'_>) -> io::Result<()> {
    let mut serial = serial_struct(port)?;
    serial.flags |= ASYNC_LOW_LATENCY;
    // SAFETY: `SerialStruct` has the layout of `struct serial_struct` of <linux/serial.h>; the driver only reads it.
    check(unsafe { libc::ioctl(port.as_raw_fd(), libc::TIOCSSERIAL, &raw const serial) })?;
    let taken = serial_struct(port)?.flags & ASYNC_LOW_LATENCY != 0;
    if taken { Ok(()) } else { Err(io::ErrorKind::Unsupported.into()) }
}

fn serial_struct(port: BorrowedFd<'_>) -> io::Result<SerialStruct> {
    let mut serial = SerialStruct::default();
    // SAFETY: `SerialStruct` has the layout of `struct serial_struct` of <linux/serial.h>; the driver fills it
    // during the call.
    check(unsafe { libc::ioctl(port.as_raw_fd(), libc::TIOCGSERIAL, &raw mut serial) })?;
    Ok(serial)
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

const SER_RS485_ENABLED: u32 = 1;
const SER_RS485_RTS_ON_SEND: u32 = 1 << 1;
const ASYNC_LOW_LATENCY: libc::c_int = 1 << 13;

/// `struct serial_rs485` of <linux/serial.h>.
#[repr(C)]
#[derive(Default)]
struct Rs485 {
    flags: u32,
    delay_rts_before_send_ms: u32,
    delay_rts_after_send_ms: u32,
    padding: [u32; 5],
}

/// `struct serial_struct` of <linux/serial.h>.
#[repr(C)]
struct SerialStruct {
    kind: libc::c_int,
    line: libc::c_int,
    port: libc::c_uint,
    irq: libc::c_int,
    flags: libc::c_int,
    xmit_fifo_size: libc::c_int,
    custom_divisor: libc::c_int,
    baud_base: libc::c_int,
    close_delay: libc::c_ushort,
    io_type: libc::c_char,
    reserved_char: [libc::c_char; 1],
    hub6: libc::c_int,
    closing_wait: libc::c_ushort,
    closing_wait2: libc::c_ushort,
    iomem_base: *mut libc::c_uchar,
    iomem_reg_shift: libc::c_ushort,
    port_high: libc::c_uint,
    iomap_base: libc::c_ulong,
}

impl Default for SerialStruct {
    fn default() -> Self {
        // SAFETY: all fields are integers or a raw pointer, for which zero is valid.
        unsafe { std::mem::zeroed() }
    }
}
