//! A source's own list of its devices: how it is asked for, and how its pages are read. What a complete listing means is
//! `roster`'s. Pure.
//!
//! Contract: [`Listing::begin`], then [`Listing::take`] with the answer to each [`Listing::url`] until it says that this was
//! the last. A listing that failed is thrown away: it means nothing.

use std::collections::{BTreeMap, BTreeSet};

use gapless_common::time::Timestamp;
use serde::Deserialize;
use serde_json::Value as Json;

use super::parts::{Span, Template, check_braces};
use super::rows::{at_path, text};
use super::url::{check_origin, resolve};

/// Pages of one listing.
const PAGES_MAX: usize = 1_000;
/// What stands for the number of a page.
const PAGE: &str = "{page}";

/// How a source is asked for its devices. Paths of JSON are names with `.` between them; nothing is all of it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListSpec {
    /// What is asked; `{page}` is the number of a page, counted until one is empty.
    pub url: String,
    /// The number of the first page.
    #[serde(default = "one")]
    pub first_page: u32,
    /// The path of the link to the next page, where there are links; the last page has none.
    pub next: Option<String>,
    /// The path of the number of all devices: a listing that holds another number is no complete one.
    pub total: Option<String>,
    /// The path of the list of devices in a page.
    #[serde(default)]
    pub devices: String,
    /// The path of a device's identity, which stays when its name does not: `{id}` in URLs.
    pub id: String,
    /// The path of the name that it gets when it is first seen; its identity where it is not said.
    pub name: Option<String>,
    /// What else stands for `{NAME}` in URLs, each with its path.
    #[serde(default)]
    pub vars: BTreeMap<String, String>,
    /// How often the list is read.
    #[serde(default = "an_hour")]
    pub every: Span,
    /// What each of its devices is.
    pub device: Template,
}

fn one() -> u32 {
    1
}

fn an_hour() -> Span {
    Span(3_600_000)
}

/// A device as its source names it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Entry {
    /// Its identity there.
    pub id: String,
    /// Its name there.
    pub name: String,
    /// What stands for `{NAME}` in URLs, `id` besides.
    pub vars: BTreeMap<String, String>,
}

/// What stands before the attributes that keep a device's `vars`.
const VAR: &str = "var.";

impl Entry {
    /// As it is kept in a device's attributes.
    pub(super) fn attributes(&self) -> BTreeMap<String, String> {
        let vars = self.vars.iter().map(|(name, text)| (format!("{VAR}{name}"), text.clone()));
        vars.chain([("listed_id".to_owned(), self.id.clone())]).collect()
    }

    /// As it was kept in the attributes of a device of this name; `None` of a device that was not listed.
    pub(super) fn of(name: &str, attributes: &BTreeMap<String, String>) -> Option<Self> {
        let var = |(key, text): (&String, &String)| Some((key.strip_prefix(VAR)?.to_owned(), text.clone()));
        let id = attributes.get("listed_id")?.clone();
        Some(Self { id, name: name.to_owned(), vars: attributes.iter().filter_map(var).collect() })
    }
}

impl ListSpec {
    /// Whether it can be used.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.every.0 <= 0 {
            return Err("`list.every` is nothing: write a length of time such as 1h".to_owned());
        }
        if self.url.contains(PAGE) && self.next.is_some() {
            return Err(format!(
                "`list.url` counts pages with {PAGE}, and `list.next` follows links: write one of them"
            ));
        }
        if self.vars.contains_key("id") {
            return Err("`list.vars` names `id`, which `list.id` says already: leave it out".to_owned());
        }
        check_braces("list.url", &self.url, &["page"])
            .map_err(|why| format!("{why} as {PAGE}, or mend it"))?;
        check_origin("list.url", &self.url)
    }

    fn entry(&self, json: &Json) -> Result<Entry, String> {
        let field = |path: &str| {
            let found = at_path(json, path).and_then(text).filter(|text| !text.is_empty());
            found.ok_or_else(|| format!("a device of the list has nothing at `{path}`"))
        };
        let id = field(&self.id)?;
        // A name is for people: one that is missing is no reason to do without the device.
        let name = self.name.as_deref().and_then(|path| field(path).ok()).unwrap_or_else(|| id.clone());
        let vars = self.vars.iter().map(|(name, path)| Ok((name.clone(), field(path)?)));
        Ok(Entry { id, name, vars: vars.collect::<Result<_, String>>()? })
    }
}

/// A listing that is under way.
#[derive(Debug)]
pub(super) struct Listing {
    began: Timestamp,
    url: String,
    page: u32,
    pages: BTreeSet<String>,
    total: Option<usize>,
    found: BTreeMap<String, Entry>,
}

impl Listing {
    pub(super) fn begin(spec: &ListSpec, now: Timestamp) -> Self {
        let mut listing = Self {
            began: now,
            url: String::new(),
            page: spec.first_page,
            pages: BTreeSet::new(),
            total: None,
            found: BTreeMap::new(),
        };
        listing.url = spec.url.replace(PAGE, &listing.page.to_string());
        listing
    }

    /// When it began.
    pub(super) fn began(&self) -> Timestamp {
        self.began
    }

    /// What is to be asked next.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// What it found, by identity.
    pub(super) fn found(self) -> BTreeMap<String, Entry> {
        self.found
    }

    /// Takes in the answer to [`url`](Self::url). Returns whether the listing is complete.
    ///
    /// # Errors
    /// What is wrong with it: the listing is to be thrown away.
    pub(super) fn take(&mut self, spec: &ListSpec, body: &str) -> Result<bool, String> {
        let json: Json =
            serde_json::from_str(body).map_err(|e| format!("a page of the list is no JSON: {e}"))?;
        let devices = at_path(&json, &spec.devices).and_then(Json::as_array);
        let devices =
            devices.ok_or_else(|| format!("a page has no list at `{}` (`list.devices`)", spec.devices))?;
        if let Some(path) = &spec.total {
            let total = at_path(&json, path).and_then(Json::as_u64).and_then(|n| usize::try_from(n).ok());
            let total = total.ok_or_else(|| format!("a page has no number at `{path}` (`list.total`)"))?;
            if self.total.replace(total).is_some_and(|before| before != total) {
                return Err("the list changed while it was read: it is read anew".to_owned());
            }
        }
        for device in devices {
            let entry = spec.entry(device)?;
            self.found.insert(entry.id.clone(), entry);
        }
        let next = match &spec.next {
            Some(path) => match at_path(&json, path) {
                None | Some(Json::Null) => None,
                Some(link) => {
                    Some(link.as_str().ok_or_else(|| format!("`{path}` (`list.next`) is no text"))?)
                }
            },
            None => None,
        };
        let next = match next.filter(|link| !link.is_empty()) {
            Some(link) => Some(resolve(&self.url, link)?),
            None if spec.url.contains(PAGE) && !devices.is_empty() => {
                self.page += 1;
                Some(spec.url.replace(PAGE, &self.page.to_string()))
            }
            None => None,
        };
        let Some(next) = next else { return self.is_whole().map(|()| true) };
        self.pages.insert(std::mem::replace(&mut self.url, next));
        if self.pages.contains(&self.url) {
            return Err(format!(
                "the list does not end: after {} pages it goes on with one that was read",
                self.pages.len()
            ));
        }
        if self.pages.len() >= PAGES_MAX {
            return Err(format!("the list does not end within {PAGES_MAX} pages"));
        }
        Ok(false)
    }

    fn is_whole(&self) -> Result<(), String> {
        let found = self.found.len();
        match self.total {
            Some(total) if total != found => {
                Err(format!("the pages hold {found} devices of {total}: the list is not complete"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::describe::Description;
    use super::*;

    const SPEC: &str =
        "url = \"http://h/devices?page={page}\"\ndevices = \"all\"\nid = \"id\"\nname = \"is.called\"
        vars = { net = \"net\" }\n[device]\ninterval = \"5m\"\nchannel = \"t\"";

    fn spec(words: &[(&str, &str)]) -> ListSpec {
        let text = words.iter().fold(SPEC.to_owned(), |text, (from, to)| {
            assert!(text.contains(from), "{from}");
            text.replace(from, to)
        });
        toml::from_str(&text).unwrap()
    }

    fn links() -> ListSpec {
        spec(&[("?page={page}\"", "\"\nnext = \"next\"")])
    }

    /// Reads a listing whose pages are these. Returns what was asked, and what came of it.
    fn read(spec: &ListSpec, pages: &[&str]) -> (Vec<String>, Result<Vec<String>, String>) {
        let (mut listing, mut asked) = (Listing::begin(spec, Timestamp(0)), Vec::new());
        for page in pages {
            asked.push(listing.url().to_owned());
            match listing.take(spec, page) {
                Ok(true) => return (asked, Ok(listing.found().into_keys().collect())),
                Ok(false) => {}
                Err(why) => return (asked, Err(why)),
            }
        }
        asked.push(listing.url().to_owned());
        (asked, Err("it goes on".to_owned()))
    }

    const A: &str = r#"{"all": [{"id": 1, "is": {"called": "Hall"}, "net": "x"}], "n": 2}"#;
    const B: &str = r#"{"all": [{"id": "b/2", "net": 7}], "n": 2}"#;
    const NONE: &str = r#"{"all": [], "n": 2}"#;

    #[test]
    fn pages_are_counted_until_one_is_empty() {
        let (asked, found) = read(&spec(&[]), &[A, B, NONE, A]);
        assert_eq!(asked, [1, 2, 3].map(|n| format!("http://h/devices?page={n}")));
        assert_eq!(found.unwrap(), ["1", "b/2"]);
        let (asked, _) = read(&spec(&[("devices = \"all\"", "devices = \"all\"\nfirst_page = 0")]), &[NONE]);
        assert_eq!(asked, ["http://h/devices?page=0"]);
        let one = spec(&[("?page={page}", "")]);
        assert_eq!(read(&one, &[A]).1.unwrap(), ["1"], "without pages one answer is all");
        let whole = spec(&[("?page={page}", ""), ("devices = \"all\"\n", "")]);
        assert_eq!(read(&whole, &[r#"[{"id": 3, "net": 1}]"#]).1.unwrap(), ["3"]);
    }

    #[test]
    fn links_are_followed_on_the_same_host_until_there_is_none() {
        let page = |next: &str| format!(r#"{{"all": [{{"id": 1, "net": 1}}], "next": {next}}}"#);
        let rows = [
            ("null", Ok(None)),
            ("\"\"", Ok(None)),
            ("\"/devices?after=1\"", Ok(Some("http://h/devices?after=1"))),
            ("\"?after=1\"", Ok(Some("http://h/devices?after=1"))),
            ("\"http://h/x\"", Ok(Some("http://h/x"))),
            ("\"http://other/x\"", Err("another host")),
            ("\"https://h/x\"", Err("another host")),
            ("\"//other/x\"", Err("another host")),
            ("\"x\"", Err("neither")),
            ("7", Err("no text")),
            ("\"/devices\"", Err("does not end")),
        ];
        for (next, expected) in rows {
            let (asked, found) = read(&links(), &[&page(next)]);
            match expected {
                Ok(None) => assert_eq!(found.unwrap(), ["1"], "{next}"),
                Ok(Some(url)) => assert_eq!(asked[1], url, "{next}"),
                Err(why) => assert!(found.unwrap_err().contains(why), "{next}"),
            }
        }
    }

    #[test]
    fn what_is_cut_short_is_no_listing() {
        let counted = spec(&[("devices = \"all\"", "devices = \"all\"\ntotal = \"n\"")]);
        let three = r#"{"all": [], "n": 3}"#;
        let rows: [(&[&str], &str); 7] = [
            (&[A, &B[..20]], "no JSON"),
            (&[A, r#"{"error": "busy"}"#], "no list at `all`"),
            (&[r#"{"all": [{"net": 1}], "n": 2}"#], "nothing at `id`"),
            (&[r#"{"all": [{"id": 1}], "n": 2}"#], "nothing at `net`"),
            (&[A, NONE], "1 devices of 2"),
            (&[A, B, three], "changed while it was read"),
            (&[r#"{"all": []}"#], "no number at `n`"),
        ];
        for (pages, expected) in rows {
            let (_, found) = read(&counted, pages);
            assert!(found.as_ref().is_err_and(|why| why.contains(expected)), "{pages:?}: {found:?}");
        }
        assert!(read(&counted, &[A, B, NONE]).1.is_ok());
    }

    const FLEET: &str = include_str!("../../sources/thermostat-fleet.toml");

    #[test]
    fn a_device_of_the_shipped_list_is_asked_for_and_known_again_from_its_attributes() {
        let description = Description::read(FLEET).unwrap();
        let vars = [("serial".to_owned(), "T 1".to_owned())].into();
        let entry = Entry { id: "4/1".into(), name: "Hall".into(), vars };
        let asked = description.listed(&entry, "Hall").unwrap();
        let at: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let url = description.url_of(&asked.spec, at, at);
        assert!(url.contains("/thermostats/4%2F1/report?start=2026-01-01T00:00:00Z"), "{url}");
        let attributes = asked.device.attributes;
        assert_eq!(Entry::of("Hall", &attributes), Some(entry));
        assert_eq!((attributes["window"].as_str(), asked.agent.as_str()), ("31d", "fleet-Hall"));
        assert_eq!(Entry::of("Hall", &BTreeMap::new()), None);
    }

    #[test]
    fn two_devices_with_one_key_are_refused_where_it_says_what_changed() {
        let device = |name: &str, id: &str| {
            format!(
                "[[device]]\nname = \"{name}\"\ninterval = \"5m\"\nchannels = [{{ name = \"t\", value = \"t\" }}]\n{id}\n"
            )
        };
        let (same, none) = ("vars = { id = \"1\" }", "");
        let two = device("a", same) + &device("b", same);
        let named = device("1", none) + &device("b", same);
        let other = device("a", none) + &device("b", same);
        let without = |text: &str| text[..text.find("# One question for what is new").unwrap()].to_owned();
        let rows = [
            (format!("{FLEET}\n{two}"), Some("`a` and `b` are both `1`")),
            (format!("{FLEET}\n{named}"), Some("`1` and `b` are both `1`")),
            (format!("{FLEET}\n{other}"), None),
            (format!("{}\n{two}", without(FLEET)), None),
        ];
        for (text, expected) in rows {
            match (Description::read(&text), expected) {
                (Ok(_), None) => {}
                (Err(why), Some(expected)) => assert!(why.contains(expected), "{why}"),
                (read, _) => panic!("{read:?}: {text}"),
            }
        }
    }

    #[test]
    fn what_is_wrong_with_a_list_is_said_with_its_field() {
        let rows = [
            ("total = \"total\"", "next = \"next\"", "`list.next`"),
            ("vars = { serial = \"serial\" }", "vars = { id = \"serial\" }", "`list.vars`"),
            ("[list]\nurl = \"http://127.0.0.1:9403", "[list]\nurl = \"", "`list.url`"),
            ("every = \"1h\"", "every = \"0s\"", "`list.every`"),
            ("[list.device]\ninterval = \"5m\"", "[list.device]\ninterval = \"0s\"", "`list.device`"),
            ("since={since}", "since=x", "`delta.url`"),
            ("device = \"thermostat\"", "rows = true", "`delta.device`"),
            ("reconcile = \"1d\"", "reconcile = \"0s\"", "`delta.reconcile`"),
            ("back = \"7d\"", "back = \"0s\"", "`delta.back`"),
            ("[delta]", "[probe]\nurl = \"http://h/x\"\n[delta]", "`probe` and `delta`"),
            ("most = 1000,", "most = 0,", "`calls`"),
            ("per = \"1d\"", "per = \"0s\"", "`calls`"),
        ];
        for (from, to, expected) in rows {
            assert!(FLEET.contains(from), "{from}");
            let why = Description::read(&FLEET.replacen(from, to, 1)).unwrap_err();
            assert!(why.contains(expected), "{to}: {why}");
        }
    }
}
