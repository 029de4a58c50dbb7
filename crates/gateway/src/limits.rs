//! Bounds of what thin clients may take of a broker.

/// Bounds of one gateway.
#[derive(Debug, Clone)]
pub struct GatewayLimits {
    /// Unary calls at once; more are refused with THROTTLED.
    pub calls_max: usize,
    /// Streams open at once; more are refused with THROTTLED.
    pub streams_max: usize,
    /// Bytes of one message from a client.
    pub message_bytes_max: usize,
    /// Bytes of records that wait to be stored, for each level of acks; above this, publishing waits.
    pub publish_bytes_max: usize,
    /// Requests of one publish stream that are not answered yet; above this, no more are taken from it.
    pub stream_requests_max: usize,
    /// Publishers with an id whose producers are kept ready; the longest idle one makes room for another.
    pub publishers_max: usize,
    /// Bytes read ahead for one reader. May be passed by what one fetch brings.
    pub prefetch_bytes: usize,
    /// Bytes of records above which an answer is not filled further. One record always goes.
    pub response_bytes: usize,
}

impl Default for GatewayLimits {
    fn default() -> Self {
        Self {
            calls_max: 1024,
            streams_max: 1024,
            message_bytes_max: 16 << 20,
            publish_bytes_max: 32 << 20,
            stream_requests_max: 256,
            publishers_max: 1000,
            prefetch_bytes: 2 << 20,
            response_bytes: 256 << 10,
        }
    }
}
