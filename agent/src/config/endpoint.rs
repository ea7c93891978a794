//! Addresses of TCP endpoints as people write them. Never quotes a broker's address in a message: a password may
//! stand in it.

/// Host and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) host: String,
    pub(super) port: u16,
}

/// `host`, `host:port`, `[v6]` or `[v6]:port`.
pub(super) fn endpoint(text: &str, default_port: u16) -> Option<Endpoint> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']')?;
            let _: core::net::Ipv6Addr = host.parse().ok()?;
            let port = if after.is_empty() { None } else { Some(after.strip_prefix(':')?) };
            (host, port)
        }
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let legal = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
    if host.is_empty() || !host.chars().all(legal) {
        return None;
    }
    let port = port.map_or(Some(default_port), |digits| digits.parse().ok().filter(|port| *port > 0))?;
    Some(Endpoint { host: host.to_owned(), port })
}

/// `mqtt://host[:port]` or `mqtts://host[:port]`: whether TLS is asked for, and where.
pub(super) fn broker(text: &str) -> Result<(bool, Endpoint), &'static str> {
    let (tls, rest) = if let Some(rest) = text.strip_prefix("mqtts://") {
        (true, rest)
    } else if let Some(rest) = text.strip_prefix("mqtt://") {
        (false, rest)
    } else {
        return Err("begins with mqtt:// or mqtts://, such as mqtts://broker.example.org:8883");
    };
    if rest.contains('@') {
        return Err("holds no user name: write `username` and `password_file` beside it");
    }
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    endpoint(rest, if tls { 8883 } else { 1883 })
        .map(|endpoint| (tls, endpoint))
        .ok_or("is not host or host:port after the //, such as mqtts://broker.example.org:8883")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        let rows = [
            ("logger.local", Some(("logger.local", 502))),
            ("10.0.0.7:1502", Some(("10.0.0.7", 1502))),
            ("[fe80::1]:503", Some(("fe80::1", 503))),
            ("[::1]", Some(("::1", 502))),
            ("host:", None),
            ("host:0", None),
            ("host:70000", None),
            ("", None),
            ("a b", None),
            ("[nonsense]:1", None),
        ];
        for (text, expected) in rows {
            let got = endpoint(text, 502);
            assert_eq!(got.as_ref().map(|e| (e.host.as_str(), e.port)), expected, "{text}");
        }
    }

    #[test]
    fn brokers() {
        let host = |host: &str, port| Endpoint { host: host.to_owned(), port };
        assert_eq!(broker("mqtt://b"), Ok((false, host("b", 1883))));
        assert_eq!(broker("mqtts://b/"), Ok((true, host("b", 8883))));
        for bad in ["b", "http://b", "mqtt://", "mqtt://u:secret@b"] {
            let message = broker(bad).unwrap_err();
            assert!(!message.contains("secret"), "{bad}");
        }
    }
}
