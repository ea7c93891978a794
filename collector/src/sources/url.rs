//! URLs: whose they are, where a link leads to, and what stands in one. Pure.

/// Scheme, authority and path of a URL: what is not a question.
pub(super) fn bare(url: &str) -> &str {
    url.split(['?', '#']).next().unwrap_or_default()
}

/// Scheme and authority of a URL (RFC 3986, section 3).
pub(super) fn origin(url: &str) -> Option<&str> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"))?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    (end > 0).then(|| &url[..url.len() - rest.len() + end])
}

/// Refuses what is no URL that can be asked, at this place of a description.
pub(super) fn check_origin(place: &str, url: &str) -> Result<(), String> {
    origin(url).map(drop).ok_or_else(|| format!("`{place}` is no URL: write https://HOST/PATH"))
}

/// The page that a link of `from` names. What is sent along may be secret: it goes nowhere else.
pub(super) fn resolve(from: &str, link: &str) -> Result<String, String> {
    let home = origin(from).unwrap_or_default();
    if origin(link).is_some() {
        let same = origin(link) == Some(home);
        return if same {
            Ok(link.to_owned())
        } else {
            // What is asked may hold a key.
            Err(format!("the next page would be asked of another host: {}", bare(link)))
        };
    }
    match link.as_bytes() {
        [b'/', b'/', ..] => Err(format!("the next page would be asked of another host: {}", bare(link))),
        [b'/', ..] => Ok(format!("{home}{link}")),
        [b'?', ..] => Ok(format!("{}{link}", bare(from))),
        _ => {
            Err(format!("the link to the next page is neither a URL nor begins with / or ?: {}", bare(link)))
        }
    }
}

/// A text as it stands in a URL (RFC 3986, section 2.1): what is not unreserved is escaped.
pub(super) fn escaped(text: &str) -> String {
    let one = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(one).collect()
}

/// A URL with these fields in its query besides, where it has them not: a link to a further page may repeat them.
pub(super) fn with_fields(url: &str, fields: &[(String, String)]) -> String {
    let (mut url, fragment) =
        url.split_once('#').map_or((url.to_owned(), None), |(url, rest)| (url.to_owned(), Some(rest)));
    for (name, value) in fields {
        let (name, query) = (escaped(name), url.split_once('?').map_or("", |(_, query)| query));
        if !query.split('&').any(|field| field.split('=').next() == Some(&name)) {
            let mark = if url.contains('?') { '&' } else { '?' };
            url = format!("{url}{mark}{name}={}", escaped(value));
        }
    }
    fragment.map_or(url.clone(), |fragment| format!("{url}#{fragment}"))
}

/// The address that an answer to `url` points to (RFC 9110, section 10.2.2).
pub(super) fn whole(url: &str, to: &str) -> String {
    let home = origin(url).unwrap_or_default();
    match to.as_bytes() {
        _ if origin(to).is_some() => to.to_owned(),
        [b'/', b'/', ..] => format!("{}:{to}", home.split(':').next().unwrap_or_default()),
        [b'/', ..] => format!("{home}{to}"),
        _ => {
            let path = bare(url);
            let folder = path.rfind('/').filter(|end| *end >= home.len()).map_or(path, |end| &path[..end]);
            format!("{folder}/{to}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_that_an_answer_points_to_is_written_out() {
        let rows = [
            ("http://h:1/a/b?c=/d", "https://o/x?y", "https://o/x?y"),
            ("http://h:1/a/b?c=/d", "//o/x", "http://o/x"),
            ("http://h:1/a/b?c=/d", "/x", "http://h:1/x"),
            ("http://h:1/a/b?c=/d", "x?y", "http://h:1/a/x?y"),
            ("http://h", "x", "http://h/x"),
        ];
        for (url, to, expected) in rows {
            assert_eq!(whole(url, to), expected, "{url} {to}");
        }
    }

    #[test]
    fn a_key_stands_in_the_query_once() {
        let rows = [
            ("http://h/a", "http://h/a?key=a%20b"),
            ("http://h/a?x=1", "http://h/a?x=1&key=a%20b"),
            ("http://h/a?key=a%20b&page=2", "http://h/a?key=a%20b&page=2"),
            ("http://h/a?monkey=1", "http://h/a?monkey=1&key=a%20b"),
            ("http://h/a#top", "http://h/a?key=a%20b#top"),
        ];
        for (url, expected) in rows {
            assert_eq!(with_fields(url, &[("key".to_owned(), "a b".to_owned())]), expected);
        }
        assert_eq!(with_fields("http://h/a#top", &[]), "http://h/a#top");
    }

    #[test]
    fn what_stands_in_a_url_is_escaped() {
        assert_eq!(escaped("a b/ü?~1"), "a%20b%2F%C3%BC%3F~1");
    }
}
