//! The list of its devices that an API of a run has: which meters it names, in which pages, and what is wrong with that. Drawn by
//! numbers of its own; what holds of it is `listed`'s.

use std::collections::{BTreeMap, BTreeSet};

use gapless_simulators::remote::Request;
use serde_json::{Value as Json, json};

use super::clock::signed;
use super::described::Described;
use super::plan::Scale;
use super::rng::Rng;

/// The meters of an API that has a list.
pub const LISTED: [&str; 4] = ["electricity", "gas", "heat", "water"];
/// One in so many sources has one.
const ONE_IN: u64 = 3;

/// How its pages are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pages {
    /// One answer has all.
    One,
    /// By their numbers, from this one on, until one is empty.
    Counted(u64),
    /// Each says where the next one is.
    Links,
}

/// How a source is asked for its devices.
#[derive(Debug, Clone)]
pub struct Listing {
    /// How often.
    pub every_ms: i64,
    pages: Pages,
    /// Devices in a page.
    most: usize,
    /// A listing is held to the number that the API says.
    has_total: bool,
    /// The API tells what has changed at meters that it does not name, too.
    tells_unlisted: bool,
    /// Meters that it names later than others, and from when on, in ms of the run.
    later: BTreeMap<String, u64>,
}

/// What a page said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// The meters that it names.
    pub names: BTreeSet<String>,
    /// How many there are in all.
    total: u64,
    /// The next one, where it says that.
    next: Option<u64>,
}

impl Page {
    /// What this body says.
    pub(super) fn of(json: &Json) -> Option<Self> {
        let names = json["meters"].as_array()?.iter().filter_map(|meter| meter["id"].as_str());
        let next = json["next"].as_str().and_then(|link| link.rsplit_once('=')?.1.parse().ok());
        let total = json["total"].as_u64().unwrap_or_default();
        Some(Self { names: names.map(str::to_owned).collect(), total, next })
    }
}

impl Listing {
    /// That of a source, where it has one.
    pub(super) fn draw(described: &Described, (scale, bad_ms): (Scale, u64), rng: &mut Rng) -> Option<Self> {
        if !rng.one_in(ONE_IN) {
            return None;
        }
        let times = if scale == Scale::Hours { rng.within(1, 6) } else { rng.within(1, 4) };
        let pages =
            *rng.pick(&[Pages::One, Pages::Counted(0), Pages::Counted(1), Pages::Links, Pages::Links]);
        let most = if pages == Pages::One { LISTED.len() } else { *rng.pick(&[1, 2, 3]) };
        let (has_total, tells_unlisted) = (rng.one_in(2), rng.one_in(2));
        let mut later = BTreeMap::new();
        for utility in LISTED {
            match rng.below(10) {
                0..=2 => later.insert(utility.to_owned(), rng.within(1, bad_ms)),
                3 => later.insert(utility.to_owned(), u64::MAX),
                _ => None,
            };
        }
        let every_ms = signed(times) * described.interval_ms;
        Some(Self { every_ms, pages, most, has_total, tells_unlisted, later })
    }

    /// A source that has one, with as many calls more as that takes.
    pub(super) fn of(listing: Option<Self>, mut described: Described) -> Described {
        if let Some(listing) = &listing {
            let pages = signed(LISTED.len() as u64) + 1;
            let calls = 4 * pages * (described.rate.1 / listing.every_ms + 1);
            // Of twice as many devices.
            described.rate.0 = 2 * described.rate.0 + u32::try_from(calls).expect("some hundreds");
        }
        described.listing = listing;
        described
    }

    /// A description with that in place of its devices.
    pub(super) fn describe(&self, described: &Described, text: &str) -> String {
        let Described { no, interval_ms, .. } = described;
        let text = text.split("[[device]]").next().unwrap_or_default();
        let (query, next) = match self.pages {
            Pages::One => ("", String::new()),
            Pages::Counted(first) => ("?page={page}", format!("first_page = {first}\n")),
            Pages::Links => ("", "next = \"next\"\n".to_owned()),
        };
        let total = if self.has_total { "total = \"total\"\n" } else { "" };
        format!(
            "{text}\n[list]\nurl = \"http://api{no}/meters{query}\"\n{next}{total}devices = \"meters\"\nid = \"id\"\n\
             name = \"is.called\"\nvars = {{ utility = \"utility\" }}\nevery = \"{}ms\"\n[list.device]\n\
             interval = \"{interval_ms}ms\"\nchannel = \"energy\"\nunit = \"kWh\"\nquantity = \"energy\"\n",
            self.every_ms
        )
    }

    /// Whether it names a meter later than others.
    pub(super) fn is_later(&self, utility: &str) -> bool {
        self.later.contains_key(utility)
    }

    /// The number of its first page.
    pub(super) const fn first(&self) -> u64 {
        match self.pages {
            Pages::Counted(first) => first,
            Pages::One | Pages::Links => 0,
        }
    }

    /// The page after this one, where there is one.
    pub(super) fn next(&self, no: u64, page: &Page) -> Option<u64> {
        match self.pages {
            Pages::One => None,
            Pages::Counted(_) => (!page.names.is_empty()).then_some(no + 1),
            Pages::Links => page.next,
        }
    }

    /// Whether pages that end with this one, and name so many meters, are all of a list.
    pub(super) fn is_whole(&self, last: &Page, names: usize) -> bool {
        !self.has_total || last.total == names as u64
    }
}

/// Which page a target asks for, where it asks for one.
pub(super) fn page(request: &Request<'_>) -> Option<u64> {
    let path = request.target.split('?').next()?;
    let no = request.field("page").or_else(|| request.field("after")).map_or(Some(0), |no| no.parse().ok());
    no.filter(|_| path.ends_with("/meters"))
}

/// The list of an API, and what is wrong with it.
#[derive(Debug)]
pub struct List {
    listing: Listing,
    no: usize,
    /// Meters that it does not name until then, in ms of the run.
    pub unlisted_until_ms: BTreeMap<String, u64>,
    /// It names no more than so many of those that it should until then; and its number is theirs.
    pub short_until_ms: (u64, usize, bool),
    /// What comes after half of it cannot be had until then.
    pub cut_until_ms: u64,
}

impl List {
    /// That of the API of a source, where it has one.
    pub(super) fn new(described: &Described) -> Option<Self> {
        let listing = described.listing.clone()?;
        let unlisted_until_ms = listing.later.clone();
        Some(Self {
            listing,
            no: described.no,
            unlisted_until_ms,
            short_until_ms: (0, 0, false),
            cut_until_ms: 0,
        })
    }

    /// How often it is asked for.
    pub(super) const fn every_ms(&self) -> u64 {
        self.listing.every_ms.unsigned_abs()
    }

    /// Whether it should name a meter whose consent was not withdrawn.
    pub(super) fn names(&self, utility: &str, at_ms: u64) -> bool {
        self.unlisted_until_ms.get(utility).is_none_or(|until_ms| *until_ms <= at_ms)
    }

    /// Nothing is wrong with it any more; what is to be named again some time is.
    pub(super) fn make_good(&mut self) {
        (self.short_until_ms.0, self.cut_until_ms) = (0, 0);
        self.unlisted_until_ms.retain(|_, until_ms| *until_ms == u64::MAX);
    }

    /// Meters of which it does not tell what has changed.
    pub(super) fn hushed(&self, at_ms: u64) -> BTreeSet<String> {
        let unlisted = LISTED.into_iter().filter(|utility| !self.names(utility, at_ms));
        unlisted.filter(|_| !self.listing.tells_unlisted).map(str::to_owned).collect()
    }

    /// Whether a page cannot be had.
    pub(super) fn is_cut(&self, page: u64, at_ms: u64) -> bool {
        at_ms < self.cut_until_ms && (self.listing.pages == Pages::One || page > self.listing.first())
    }

    /// A page of it.
    pub(super) fn answer(&self, page: u64, withdrawn: &BTreeSet<String>, at_ms: u64) -> Json {
        let is_named = |utility: &&str| self.names(utility, at_ms) && !withdrawn.contains(*utility);
        let mut all: Vec<_> = LISTED.into_iter().filter(is_named).collect();
        let mut total = all.len();
        let (short_until_ms, most, is_counted) = self.short_until_ms;
        if at_ms < short_until_ms {
            all.truncate(most);
            total = if is_counted { all.len() } else { total };
        }
        let place = usize::try_from(page - self.listing.first().min(page)).unwrap_or(usize::MAX);
        let from =
            if self.listing.pages == Pages::Links { place } else { place.saturating_mul(self.listing.most) };
        let to = all.len().min(from.saturating_add(self.listing.most));
        let meter = |utility: &&str| json!({"id": utility, "utility": utility, "is": {"called": format!("{utility}{}", self.no)}});
        let meters: Vec<_> = all.get(from..to).unwrap_or_default().iter().map(meter).collect();
        let next =
            (self.listing.pages == Pages::Links && to < all.len()).then(|| format!("/meters?after={to}"));
        json!({"meters": meters, "total": total, "next": next})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(list: &List, at_ms: u64) -> (Vec<u64>, BTreeSet<String>, bool) {
        let (mut asked, mut names) = (Vec::new(), BTreeSet::new());
        let mut no = Some(list.listing.first());
        let mut last = Page::default();
        while let Some(page) = no {
            asked.push(page);
            last = Page::of(&list.answer(page, &BTreeSet::new(), at_ms)).unwrap();
            names.extend(last.names.clone());
            no = list.listing.next(page, &last);
        }
        let is_whole = list.listing.is_whole(&last, names.len());
        (asked, names, is_whole)
    }

    #[test]
    fn a_list_names_in_its_pages_whom_it_should_and_may_be_short_of_some() {
        let listing = |pages, most| Listing {
            every_ms: 1,
            pages,
            most,
            has_total: true,
            tells_unlisted: false,
            later: [("gas".to_owned(), 500)].into(),
        };
        let rows: [(Pages, usize, &[u64]); 3] =
            [(Pages::One, 4, &[0]), (Pages::Counted(1), 2, &[1, 2, 3]), (Pages::Links, 2, &[0, 2])];
        for (pages, most, expected) in rows {
            let mut list = List {
                listing: listing(pages, most),
                no: 0,
                unlisted_until_ms: [("gas".to_owned(), 500)].into(),
                short_until_ms: (0, 0, false),
                cut_until_ms: 0,
            };
            let (asked, names, is_whole) = read(&list, 499);
            assert_eq!((asked.as_slice(), names.len(), is_whole), (expected, 3, true));
            assert_eq!(list.hushed(499), ["gas".to_owned()].into());
            assert_eq!(read(&list, 500).1.len(), 4);
            list.short_until_ms = (600, 1, false);
            assert_eq!((read(&list, 599).1.len(), read(&list, 599).2), (1, false));
            list.short_until_ms.2 = true;
            assert!(read(&list, 599).2);
        }
    }
}
