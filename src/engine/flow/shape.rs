//! What a config says about what flows through it: which parts carry which signal, and whether they are what they were.
//!
//! Promises: read from the files as they stand, by the paths that the profile names; what cannot be read is not known,
//! which is another thing than not there.
//! Must never: know a program, or judge what flows.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash as _, Hasher as _};

use crate::config::{Agent, Flow};
use crate::engine::desired::{Tree, meaning, trees};
use crate::engine::message::RevisionFile;

/// What became of a part from one config to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// It is what it was.
    Same,
    /// It is there under other words.
    Changed,
    /// It is not used any more.
    Gone,
    /// Nobody knows.
    Unknown,
}

/// One config.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Shape {
    sides: [Option<Side>; 2],
    shared: u64,
    /// By signal and side, the parts that carry it; `None` where every part may.
    used: Vec<Option<[BTreeSet<String>; 2]>>,
    /// Where the config says that its counters are.
    pub(crate) counters: Counters,
}

/// Where a config says that its counters are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Counters {
    /// Nowhere else than always.
    #[default]
    Usual,
    /// At this host and port.
    At(String),
    /// Nowhere that can be asked, and why.
    Off(String),
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Side {
    /// By name; none where the section is a list.
    parts: Option<BTreeMap<String, u64>>,
    whole: u64,
}

impl Shape {
    /// Reads the files of a revision.
    pub(crate) fn of(settings: &Agent, files: &[RevisionFile], flow: &Flow) -> Self {
        let trees = trees(settings, files);
        let side = |section: &Option<String>| {
            let section = section.as_ref()?;
            (!trees.is_empty()).then(|| Side::of(&trees, section))
        };
        let shared: Vec<String> = flow
            .shared
            .iter()
            .flat_map(|section| texts(&trees, section))
            .collect();
        let [sources, destinations] = &flow.sections;
        let used = flow.signals.iter().map(|signal| {
            let path = signal.pipelines.as_ref()?;
            Some([sources, destinations].map(|section| used(&trees, path, section.as_deref())))
        });
        Self {
            sides: [side(sources), side(destinations)],
            shared: hash(&shared),
            used: used.collect(),
            counters: Counters::of(&trees, flow),
        }
    }

    /// Whether a part carries a signal; nothing where nobody knows.
    fn uses(&self, signal: usize, side: usize, part: &str) -> Option<bool> {
        let there = self
            .sides
            .get(side)?
            .as_ref()?
            .parts
            .as_ref()?
            .contains_key(part);
        let used = self.used.get(signal).and_then(Option::as_ref);
        let used = used.and_then(|sides| sides.get(side));
        Some(there && used.is_none_or(|parts| parts.contains(part)))
    }

    /// The parts that carry a signal here and did not in `old`.
    pub(crate) fn came(&self, old: &Self, signal: usize, side: usize) -> BTreeSet<String> {
        let parts = self.sides.get(side).and_then(Option::as_ref);
        let parts = parts.and_then(|side| side.parts.as_ref());
        let parts = parts.into_iter().flat_map(BTreeMap::keys);
        parts
            .filter(|part| {
                self.uses(signal, side, part) == Some(true)
                    && old.uses(signal, side, part) == Some(false)
            })
            .cloned()
            .collect()
    }

    /// What became of a part that carried a signal in `old`.
    pub(crate) fn change(&self, old: &Self, signal: usize, side: usize, part: &str) -> Change {
        let of = |shape: &Self| shape.sides.get(side).cloned().flatten();
        let (Some(before), Some(now)) = (of(old), of(self)) else {
            return Change::Unknown;
        };
        let same = match (&before.parts, &now.parts) {
            (Some(before), Some(now)) => {
                match (old.uses(signal, side, part), self.uses(signal, side, part)) {
                    (Some(true), Some(true)) => before.get(part) == now.get(part),
                    (Some(true), _) => return Change::Gone,
                    _ => return Change::Unknown,
                }
            }
            _ => before.whole == now.whole,
        };
        if same && old.shared == self.shared {
            Change::Same
        } else {
            Change::Changed
        }
    }

    /// One of named parts by signal and side, each with what it says in a number.
    #[cfg(test)]
    pub(crate) fn made(signals: usize, parts: &[(usize, usize, &str, u64)], shared: u64) -> Self {
        let side = |side: usize| {
            let of = parts.iter().filter(|(_, at, ..)| *at == side);
            let parts = of.map(|(_, _, name, text)| ((*name).to_owned(), *text));
            Some(Side {
                parts: Some(parts.collect()),
                whole: 0,
            })
        };
        let names = |signal: usize, side: usize| {
            let of = parts
                .iter()
                .filter(|(of, at, ..)| (*of, *at) == (signal, side));
            of.map(|(_, _, name, _)| (*name).to_owned()).collect()
        };
        Self {
            sides: [side(0), side(1)],
            shared,
            used: (0..signals)
                .map(|signal| Some([names(signal, 0), names(signal, 1)]))
                .collect(),
            counters: Counters::Usual,
        }
    }
}

impl Side {
    fn of(trees: &[Tree], section: &str) -> Self {
        let mut parts: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut is_list = false;
        for tree in trees {
            for node in tree.find(section) {
                is_list |= !node.items().is_empty();
                for (name, value) in node.entries() {
                    let name = name.text().unwrap_or_default().to_owned();
                    parts.entry(name).or_default().push(meaning(value));
                }
            }
        }
        let hashes = parts
            .iter()
            .map(|(name, texts)| (name.clone(), hash(texts)));
        Self {
            parts: (!is_list).then(|| hashes.collect()),
            whole: hash(&texts(trees, section)),
        }
    }
}

impl Counters {
    fn of(trees: &[Tree], flow: &Flow) -> Self {
        if let Some((path, value)) = &flow.off {
            let mut found = trees.iter().flat_map(|tree| tree.find(path));
            if found.next_back().and_then(crate::yaml::Node::text) == Some(value) {
                return Self::Off(format!("{path} is {value}"));
            }
        }
        let Some((list, below)) = &flow.address else {
            return Self::Usual;
        };
        // The list of the last layer that has one stands for all.
        let mut lists = trees.iter().flat_map(|tree| tree.find(list));
        let Some(list_node) = lists.next_back() else {
            return Self::Usual;
        };
        let steps: Vec<&str> = below.split('.').collect();
        let at = list_node.items().iter().find_map(|item| item.at(&steps));
        let Some(at) = at else {
            return Self::Off(format!("no entry of {list} has {below}"));
        };
        let word = |key| at.get(key).and_then(crate::yaml::Node::text);
        let (host, port) = (word("host").unwrap_or("localhost"), word("port"));
        let host = match host {
            "" | "0.0.0.0" => "127.0.0.1",
            "::" | "[::]" => "[::1]",
            host => host,
        };
        match port.and_then(|port| port.parse::<u16>().ok()) {
            _ if host.contains('$') => Self::Off(format!("the host in {list} is not a plain one")),
            Some(port) => Self::At(format!("{host}:{port}")),
            None => Self::Off(format!("the port in {list} is not a plain number")),
        }
    }
}

/// The parts that the entries of a section name in their list called as the last key of `section`. A later layer's
/// entry takes the place of an earlier one.
fn used(trees: &[Tree], pipelines: &str, section: Option<&str>) -> BTreeSet<String> {
    let (parent, kind) = pipelines.rsplit_once('.').unwrap_or(("", pipelines));
    let list = section.and_then(|section| section.rsplit('.').next());
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for tree in trees {
        for (name, entry) in tree
            .find(parent)
            .into_iter()
            .flat_map(crate::yaml::Node::entries)
        {
            let name = name.text().unwrap_or_default();
            let rest = name.strip_prefix(kind);
            if !rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
                continue;
            }
            let Some(parts) = list.and_then(|list| entry.get(list)) else {
                continue;
            };
            let parts = parts.items().iter().filter_map(crate::yaml::Node::text);
            found.insert(name.to_owned(), parts.map(str::to_owned).collect());
        }
    }
    found.into_values().flatten().collect()
}

fn texts(trees: &[Tree], section: &str) -> Vec<String> {
    let found = trees
        .iter()
        .flat_map(|tree| tree.find(section).into_iter().map(meaning));
    found.collect()
}

fn hash(texts: &[String]) -> u64 {
    let mut hasher = DefaultHasher::new();
    texts.hash(&mut hasher);
    hasher.finish()
}
