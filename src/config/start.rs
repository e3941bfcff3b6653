//! After which other agents one starts.
//!
//! Promises: a name that is not there and a circle are errors at the key that says so, so that nobody ever waits for
//! itself.

use std::time::Duration;

use crate::yaml::{Node, Value, nearest};

use super::load::agent_name;
use super::read::Section;
use super::{Agent, StartOrder};

pub(super) fn order(section: &mut Section<'_, '_, '_>) -> StartOrder {
    let about = (
        "list of agents",
        "started when these are healthy, stopped before them",
    );
    let after = section.list("start_after", about, "none", |_, text| agent_name(text));
    let wait = section.duration(
        "start_wait",
        "how long those may take to come up before it is started anyway",
        StartOrder::default().wait,
        Duration::ZERO..=Duration::from_hours(1),
    );
    StartOrder {
        after: after.unwrap_or_default(),
        wait,
    }
}

/// Names that are not there, and circles.
pub(super) fn check(root: &mut Section<'_, '_, '_>, listed: &[(&str, &Node)], agents: &[Agent]) {
    let mut told = false;
    for (name, node) in listed {
        let given = node.get("start_after").map(|given| &given.value);
        let Some(Value::List(given)) = given else {
            continue;
        };
        for (i, item) in given.iter().enumerate() {
            let on = item.text().unwrap_or_default();
            let path = format!("agents.{name}.start_after[{i}]");
            if on == *name {
                root.problem_at(item, &path, "an agent cannot start after itself");
            } else if !listed.iter().any(|(other, _)| *other == on) {
                let message = match nearest(on, listed.iter().map(|(other, _)| *other)) {
                    Some(near) => format!("no agent is named {on:?}; did you mean {near:?}?"),
                    None => format!("no agent is named {on:?}"),
                };
                root.problem_at(item, &path, message);
            } else if !told && let Some(circle) = circle(agents, name, on) {
                told = true;
                root.problem_at(
                    item,
                    &path,
                    format!("a circle, so none of them could be first: {circle}"),
                );
            }
        }
    }
}

/// The way from `on` back to `name`, as people read it.
fn circle(agents: &[Agent], name: &str, on: &str) -> Option<String> {
    let mut ways = vec![vec![on.to_owned()]];
    let mut seen = vec![on.to_owned()];
    while let Some(way) = ways.pop() {
        let last = way.last()?;
        let agent = agents.iter().find(|agent| agent.name.as_str() == last);
        for next in agent
            .map(|agent| agent.start.after.iter())
            .into_iter()
            .flatten()
        {
            let next = next.to_string();
            if next == name {
                return Some(format!("{name} after {} after {name}", way.join(" after ")));
            }
            if !seen.contains(&next) {
                seen.push(next.clone());
                let mut longer = way.clone();
                longer.push(next);
                ways.push(longer);
            }
        }
    }
    None
}
