//! CRC of the RTU framing (MODBUS over Serial Line V1.02, section 6.2.2), bit by bit: written for the
//! simulators alone, so that they do not share a mistake with a driver.

/// CRC-16 with the reflected polynomial 0xA001, started at 0xFFFF.
#[must_use]
pub fn crc16(bytes: &[u8]) -> u16 {
    let mut register = 0xFFFF_u16;
    for byte in bytes {
        register ^= u16::from(*byte);
        for _ in 0..8 {
            let carry = register & 1 == 1;
            register >>= 1;
            if carry {
                register ^= 0xA001;
            }
        }
    }
    register
}

/// Appends the CRC of what `frame` holds, low byte first.
pub fn seal(frame: &mut Vec<u8>) {
    let crc = crc16(frame);
    frame.extend_from_slice(&crc.to_le_bytes());
}

/// Whether `frame` ends in the CRC of what stands before it.
#[must_use]
pub fn is_sealed(frame: &[u8]) -> bool {
    frame.len() > 2 && {
        let (body, crc) = frame.split_at(frame.len() - 2);
        crc16(body).to_le_bytes() == crc
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The specification's example (section 6.2.2: message 02 07 gives CRC 0x1241, sent as 41 12), the check
    /// value of CRC-16/MODBUS for `123456789`, and a request found in many vendors' manuals.
    #[test]
    fn known_checksums() {
        let rows: [(&[u8], [u8; 2]); 3] = [
            (&[0x02, 0x07], [0x41, 0x12]),
            (b"123456789", [0x37, 0x4B]),
            (&[0x01, 0x04, 0x00, 0x00, 0x00, 0x02], [0x71, 0xCB]),
        ];
        for (body, crc) in rows {
            let mut frame = body.to_vec();
            seal(&mut frame);
            assert_eq!(frame[body.len()..], crc, "{body:02X?}");
            assert!(is_sealed(&frame));
            frame[0] ^= 1;
            assert!(!is_sealed(&frame));
        }
    }
}
