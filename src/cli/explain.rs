//! `adjutant explain`: what a setting is, what decided it, and what it would be otherwise.
//!
//! Promises: shows values as they were written, so nothing secret; a key that does not exist is an error that names
//! the nearest one. Must never: explain settings that `run` would refuse.

use serde_json::json;

use super::args::Place;
use super::status::table;
use super::{Done, ExitCode, Failure, Out, settings};
use crate::app;
use crate::config::{DecidedBy, Explained, Form, keys_not_built, nearest_key};

pub(super) fn show(
    place: &Place,
    key: Option<&str>,
    (changed, json): (bool, bool),
    out: &mut Out<'_>,
) -> Done {
    let all = app::explain(&settings::given(place))?;
    let mut chosen: Vec<&Explained> = match key {
        None => all.iter().collect(),
        Some(key) => below(&all, key)?,
    };
    if changed {
        chosen.retain(|it| it.decided_by != DecidedBy::Default);
    }
    match chosen.as_slice() {
        chosen if json => out.line(&document(chosen).to_string()),
        [one] if key == Some(one.key.as_str()) => out.text(&page(one)),
        [] => out.line("every value is at its default"),
        several => out.text(&table(
            ["KEY", "VALUE", "FROM"],
            several
                .iter()
                .map(|it| [it.key.clone(), it.value.clone(), it.decided_by.to_string()]),
        )),
    }
    Ok(ExitCode::Ok)
}

/// The key itself, or all keys of a section.
fn below<'a>(all: &'a [Explained], key: &str) -> Result<Vec<&'a Explained>, Failure> {
    let section = format!("{key}.");
    let found: Vec<&Explained> = all
        .iter()
        .filter(|it| it.key == key || it.key.starts_with(&section))
        .collect();
    if !found.is_empty() {
        return Ok(found);
    }
    let mut later = [Form::Agents, Form::Agent]
        .into_iter()
        .flat_map(keys_not_built);
    let hint = if later.any(|it| is_like(&it, key)) {
        "it is known and refused; `adjutant validate` says why where it is set".to_owned()
    } else if let Some(near) = nearest_key(key, all) {
        format!("did you mean {near:?}?")
    } else {
        "`adjutant explain` lists them all".to_owned()
    };
    let text = format!("no key {key:?} in these settings; {hint}");
    Err(Failure::new(ExitCode::Failed, text))
}

/// Whether a path with `<name>` in it is the path of a key.
fn is_like(path: &str, key: &str) -> bool {
    let mut steps = key.split('.');
    path.split('.').all(|step| {
        steps
            .next()
            .is_some_and(|it| step == "<name>" || step == it)
    }) && steps.next().is_none()
}

fn page(one: &Explained) -> String {
    let mut rows = vec![
        ["from".to_owned(), one.decided_by.to_string()],
        ["default".to_owned(), one.about.default.clone()],
    ];
    if let Some(theirs) = one.theirs {
        rows.push(["opampsupervisor".to_owned(), format!("{theirs} by default")]);
    }
    rows.push(["is a".to_owned(), one.about.kind.to_owned()]);
    if !one.about.bounds.is_empty() {
        rows.push(["bounds".to_owned(), one.about.bounds.clone()]);
    }
    rows.push(["about".to_owned(), one.about.about.to_owned()]);
    table([one.key.as_str(), one.value.as_str()], rows)
}

fn document(chosen: &[&Explained]) -> serde_json::Value {
    let keys: Vec<_> = chosen
        .iter()
        .map(|it| {
            let (layer, line, column) = match &it.decided_by {
                DecidedBy::CommandLine(_) => ("command line", None, None),
                DecidedBy::Text { line, column, .. } => ("settings", Some(line), Some(column)),
                DecidedBy::Environment(_) => ("environment", None, None),
                DecidedBy::Default => ("default", None, None),
            };
            json!({
                "key": it.key,
                "value": it.value,
                "layer": layer,
                "from": it.decided_by.to_string(),
                "line": line,
                "column": column,
                "default": it.about.default,
                "opampsupervisor_default": it.theirs,
                "kind": it.about.kind,
                "bounds": it.about.bounds,
                "about": it.about.about,
            })
        })
        .collect();
    json!({ "keys": keys })
}
