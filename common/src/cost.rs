//! What a message costs on the link beside its payload: one estimate, for the agent's daily budget, its `check`, and the
//! collector's account of the bytes spent. Does not count pings, TLS, or what TCP sends again.

/// MQTT's fixed header, topic length and packet id (MQTT 3.1.1, section 3.3), TCP and IP headers without options.
const MESSAGE_OVERHEAD_BYTES: usize = 3 + 2 + 2 + 40;

/// Bytes on the link of one published message.
#[must_use]
pub const fn message_bytes(topic_bytes: usize, payload_bytes: usize) -> usize {
    MESSAGE_OVERHEAD_BYTES + topic_bytes + payload_bytes
}
