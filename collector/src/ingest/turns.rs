//! Whose turn it is: messages wait by agent, and whoever was served longest ago comes next, so that a flood from one
//! agent costs the others one of its messages at a time. Pure; knows nothing of what the messages say.
//!
//! Messages of one agent keep their order. The shell's word that a new session began keeps its place among all:
//! everything before it is served first, everything after it later.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::Inbound;

/// Agents that are remembered as served, at most; whoever is forgotten was served longest ago.
const SERVED_MAX: usize = 16_384;

/// [`push`](Self::push) what comes; take one message with [`pop`](Self::pop), or a [`group`](Self::group) of which
/// the rest goes back with [`put_back`](Self::put_back).
#[derive(Debug, Default)]
pub(super) struct Turns {
    waiting: BTreeMap<String, VecDeque<Inbound>>,
    /// Who waits, by the turn in which each was served last.
    order: BTreeSet<(u64, String)>,
    served: BTreeMap<String, u64>,
    turn: u64,
    /// A new session and what came after it.
    later: VecDeque<Inbound>,
    len: usize,
    bytes: usize,
}

/// Messages in the order of their turns.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) messages: Vec<Inbound>,
    /// The turn in which the agent of each had been served before.
    ranks: Vec<u64>,
}

impl Turns {
    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Bytes that wait.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Takes a message in.
    pub(super) fn push(&mut self, message: Inbound) {
        self.len += 1;
        self.bytes += message.payload.len();
        if message.is_new_session() || !self.later.is_empty() {
            self.later.push_back(message);
        } else {
            self.queue(message);
        }
    }

    /// The next one.
    pub(super) fn pop(&mut self) -> Option<Inbound> {
        self.next().map(|(message, _)| message)
    }

    /// The next ones: as many as `messages_max`, and until they have `bytes_max`.
    pub(super) fn group(&mut self, messages_max: usize, bytes_max: usize) -> Group {
        let (mut group, mut bytes) = (Group::default(), 0);
        while group.messages.len() < messages_max && bytes < bytes_max {
            let Some((message, rank)) = self.next() else { break };
            bytes += message.payload.len();
            group.messages.push(message);
            group.ranks.push(rank);
        }
        group
    }

    /// The rest of a group, from its message `taken` on, waits again as if it had not been taken out.
    pub(super) fn put_back(&mut self, mut group: Group, taken: usize) {
        let rest: Vec<_> = group.messages.drain(taken..).zip(group.ranks.drain(taken..)).collect();
        for (message, rank) in rest.into_iter().rev() {
            self.len += 1;
            self.bytes += message.payload.len();
            if message.is_new_session() {
                self.close(message);
            } else {
                let key = key(&message).to_owned();
                self.rank(&key, rank);
                self.waiting.entry(key.clone()).or_default().push_front(message);
                self.order.insert((rank, key));
            }
        }
    }

    /// Everything that waits now comes after this new session.
    fn close(&mut self, session: Inbound) {
        let mut after: VecDeque<Inbound> = VecDeque::from([session]);
        for (_, queue) in std::mem::take(&mut self.waiting) {
            after.extend(queue);
        }
        after.append(&mut self.later);
        self.later = after;
        self.order.clear();
    }

    fn next(&mut self) -> Option<(Inbound, u64)> {
        let Some((rank, key)) = self.order.pop_first() else { return self.next_session() };
        let queue = self.waiting.get_mut(&key)?;
        let message = queue.pop_front()?;
        if queue.is_empty() {
            self.waiting.remove(&key);
        }
        self.turn += 1;
        self.rank(&key, self.turn);
        if self.waiting.contains_key(&key) {
            self.order.insert((self.turn, key));
        }
        self.count(&message);
        Some((message, rank))
    }

    /// The new session that all before waited for; what came after it waits by agent from now on.
    fn next_session(&mut self) -> Option<(Inbound, u64)> {
        let session = self.later.pop_front()?;
        while let Some(message) = self.later.pop_front_if(|m| !m.is_new_session()) {
            self.queue(message);
        }
        self.count(&session);
        Some((session, 0))
    }

    fn count(&mut self, gone: &Inbound) {
        self.len -= 1;
        self.bytes -= gone.payload.len();
    }

    fn queue(&mut self, message: Inbound) {
        let key = key(&message);
        let rank = self.served.get(key).copied().unwrap_or_default();
        self.order.insert((rank, key.to_owned()));
        self.waiting.entry(key.to_owned()).or_default().push_back(message);
    }

    fn rank(&mut self, key: &str, rank: u64) {
        if let Some(before) = self.served.insert(key.to_owned(), rank) {
            self.order.remove(&(before, key.to_owned()));
        }
        if self.served.len() > SERVED_MAX {
            let waits = |key: &String| self.waiting.contains_key(key);
            let oldest = self.served.iter().filter(|(key, _)| !waits(key)).min_by_key(|(_, rank)| **rank);
            if let Some(key) = oldest.map(|(key, _)| key.clone()) {
                self.served.remove(&key);
            }
        }
    }
}

/// What stands for the agent: its topic up to the kind, whether it is one or not.
fn key(message: &Inbound) -> &str {
    message.topic.rsplit_once("/up/").map_or(message.topic.as_str(), |(agent, _)| agent)
}

#[cfg(test)]
mod tests {
    use gapless_common::time::Timestamp;

    use super::*;

    fn message(agent: char, token: u64) -> Inbound {
        let topic = format!("gapless/v1/farm/{agent}/up/data");
        Inbound { topic, payload: vec![0; 10], at: Timestamp(0), token }
    }

    /// What was pushed (`|` is a new session) and in which order it comes.
    fn check(pushed: &str, taken_of_each_group: usize, expected: &str) {
        let mut turns = Turns::default();
        for (token, agent) in (0..).zip(pushed.chars()) {
            let session = Inbound { token, ..Inbound::new_session(Timestamp(0)) };
            turns.push(if agent == '|' { session } else { message(agent, token) });
        }
        let (mut order, mut last) = (String::new(), BTreeMap::new());
        while !turns.is_empty() {
            let group = turns.group(5, usize::MAX);
            let taken = taken_of_each_group.min(group.messages.len());
            for message in group.messages.iter().take(taken) {
                let agent = pushed.chars().nth(usize::try_from(message.token).unwrap()).unwrap();
                let before = last.insert(agent, message.token);
                assert!(before.is_none_or(|before| before < message.token), "{agent} out of order");
                order.push(agent);
            }
            turns.put_back(group, taken);
        }
        assert_eq!((order.as_str(), turns.bytes(), turns.len()), (expected, 0, 0), "{pushed}");
    }

    #[test]
    fn whoever_was_served_longest_ago_comes_next() {
        for taken in [1, 2, 5] {
            check("aaaaaab", taken, "abaaaaa");
            check("aaabbbc", taken, "abcabab");
            check("bbbbb", taken, "bbbbb");
            check("", taken, "");
        }
    }

    #[test]
    fn a_new_session_keeps_its_place() {
        for taken in [1, 2, 5] {
            check("aab|ba", taken, "aba|ba");
            check("||aab", taken, "||aba");
            check("a|bba|c", taken, "a|bab|c");
        }
    }

    #[test]
    fn who_comes_again_each_time_does_not_starve_who_waits() {
        let mut turns = Turns::default();
        (0..3).for_each(|n| turns.push(message('b', n)));
        let mut order = String::new();
        for n in 3..9 {
            turns.push(message('a', n));
            order.push(turns.pop().unwrap().topic.chars().nth(16).unwrap());
        }
        assert_eq!(order, "ababab");
    }
}
