//! Lists of the frozen types, bounded while they are read: one that is too long is refused before memory is taken for
//! it. Says nothing of what the items mean.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};

/// Room made for a list before its items have come.
const CAPACITY_MAX: usize = 64;

/// Reads a list of at most `MAX` items.
pub(super) fn at_most<'de, D, T, const MAX: usize>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    deserializer.deserialize_seq(AtMost::<T, MAX>(PhantomData))
}

struct AtMost<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for AtMost<T, MAX> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {MAX} items")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let said = items.size_hint().unwrap_or(0);
        if said > MAX {
            return Err(A::Error::invalid_length(said, &self));
        }
        let mut list = Vec::with_capacity(said.min(CAPACITY_MAX));
        while let Some(item) = items.next_element()? {
            if list.len() == MAX {
                return Err(A::Error::invalid_length(MAX + 1, &self));
            }
            list.push(item);
        }
        Ok(list)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use serde::Serialize;

    use super::*;

    thread_local! {
        static ITEMS_READ: Cell<usize> = const { Cell::new(0) };
    }

    #[derive(Serialize)]
    struct Item(u8);

    impl<'de> Deserialize<'de> for Item {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            ITEMS_READ.set(ITEMS_READ.get() + 1);
            u8::deserialize(deserializer).map(Item)
        }
    }

    #[derive(serde::Deserialize)]
    struct Short(#[serde(deserialize_with = "at_most::<_, _, 3>")] Vec<Item>);

    #[test]
    fn a_list_beyond_its_bound_is_refused_before_an_item_is_read() {
        for (len, read) in [(0, 0), (3, 3), (4, 0), (100_000, 0)] {
            let list: Vec<Item> = (0..len).map(|_| Item(7)).collect();
            let bytes = postcard::to_stdvec(&list).unwrap();
            ITEMS_READ.set(0);
            let short = postcard::from_bytes::<Short>(&bytes);
            assert_eq!(short.ok().map(|Short(items)| items.len()), (len <= 3).then_some(len));
            assert_eq!(ITEMS_READ.get(), read, "of {len}");
        }
    }
}
