//! What to say about a key that nobody knows: the key that was meant, or where it belongs.
//!
//! Must never: keep a list of keys; it asks the readers of both forms.

use crate::units::order;
use crate::yaml::nearest;

use super::Form;

/// Where an unknown key may have been meant to go.
pub(super) fn unknown(name: &str, known: &[&'static str], form: Option<Form>) -> String {
    let near = nearest(name, known.iter().copied());
    let (form, other) = match form {
        Some(Form::Agents) => (Form::Agents, Form::Agent),
        Some(Form::Agent) => (Form::Agent, Form::Agents),
        None => return near.map_or_else(|| listed(known), meant),
    };
    if let Some(path) = place_of(form, name) {
        return format!("unknown key here, it belongs at `{path}`");
    }
    if let Some(near) = near {
        return meant(near);
    }
    match place_of(other, name) {
        Some(path) => {
            let word = other.word();
            format!("unknown key, it exists only in the `{word}:` form, as `{path}`")
        }
        None => listed(known),
    }
}

/// Where a form has a key or section of this name.
fn place_of(form: Form, name: &str) -> Option<String> {
    let keys = super::keys(form);
    // Keys of extensions have names that many things have.
    let mut keys = keys
        .iter()
        .filter(|key| !key.path.starts_with("extensions."));
    keys.find_map(|key| {
        let steps: Vec<&str> = key.path.split('.').collect();
        let at = steps.iter().position(|step| *step == name)?;
        Some(steps.get(..=at)?.join("."))
    })
}

fn meant(near: &str) -> String {
    format!("unknown key, did you mean {near:?}?")
}

fn listed(known: &[&'static str]) -> String {
    let mut known = known.to_vec();
    order::sort(&mut known);
    known.dedup();
    format!("unknown key, known here: {}", known.join(", "))
}
