//! An answer on its way to the line, and how it is framed: RTU (MODBUS over Serial Line V1.02, section 2.5.1) and
//! MBAP (MODBUS Messaging on TCP/IP V1.0b, section 3.1.3), with whatever a fault did to it.

use super::crc;

/// One answer with what is to go wrong on its way.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reply {
    /// The unit it names.
    pub unit: u8,
    /// Function and data.
    pub pdu: Vec<u8>,
    /// How much later than the turnaround it begins.
    pub delay_ns: u64,
    /// The CRC (RTU) or the protocol identifier (MBAP) is wrong.
    pub break_check: bool,
    /// The transaction identifier is the one before (MBAP).
    pub transaction_before: bool,
    /// Only so many bytes of the frame come; inner `None`: half.
    pub truncate: Option<Option<usize>>,
    /// Noise in front.
    pub before: Vec<u8>,
    /// Noise behind.
    pub after: Vec<u8>,
}

impl Reply {
    /// The bytes on a serial line.
    #[must_use]
    pub fn rtu(&self) -> Vec<u8> {
        let mut frame = vec![self.unit];
        frame.extend_from_slice(&self.pdu);
        crc::seal(&mut frame);
        if self.break_check
            && let Some(last) = frame.last_mut()
        {
            *last ^= 0x01;
        }
        self.around(frame)
    }

    /// The bytes on a Modbus TCP connection.
    #[must_use]
    pub fn mbap(&self, transaction: u16) -> Vec<u8> {
        let transaction = if self.transaction_before { transaction.wrapping_sub(1) } else { transaction };
        let protocol = u16::from(self.break_check);
        let len = u16::try_from(self.pdu.len() + 1).expect("a PDU has at most 253 bytes");
        let mut frame = Vec::with_capacity(self.pdu.len() + 7);
        for field in [transaction, protocol, len] {
            frame.extend_from_slice(&field.to_be_bytes());
        }
        frame.push(self.unit);
        frame.extend_from_slice(&self.pdu);
        self.around(frame)
    }

    fn around(&self, mut frame: Vec<u8>) -> Vec<u8> {
        if let Some(bytes) = self.truncate {
            frame.truncate(bytes.unwrap_or(frame.len() / 2));
        }
        [&self.before[..], &frame, &self.after].concat()
    }
}
