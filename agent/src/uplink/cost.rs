//! What a message costs on the link beside its payload: an estimate, for the daily budget and for `check` alike. Does not
//! count what comes back (acknowledgements, pings), TLS, or what TCP sends again.

/// MQTT's fixed header, topic length and packet id (MQTT 3.1.1, section 3.3), TCP and IP headers without options.
const MESSAGE_OVERHEAD_BYTES: usize = 3 + 2 + 2 + 40;

/// Bytes on the link of one published message.
#[must_use]
pub const fn message_bytes(topic_bytes: usize, payload_bytes: usize) -> usize {
    MESSAGE_OVERHEAD_BYTES + topic_bytes + payload_bytes
}
