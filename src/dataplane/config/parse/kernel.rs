//! The settings of a source of kernel events.
//!
//! Promises: one such source in a config, because each would attach the same programs again.
//! Must never: ask the kernel what it can do; a config is right or wrong on every host alike.

use super::{KIB, MIB};
use crate::dataplane::config::fields::Fields;
use crate::dataplane::config::{KernelConfig, KernelEvents, SourceConfig, SourceKind};
use crate::yaml::nearest;

/// Ports that can be left out.
const PORTS_MAX: usize = 64;

pub(super) fn kernel(fields: &mut Fields<'_, '_>) -> KernelConfig {
    KernelConfig {
        events: events(fields),
        command_args: fields.flag("command_args", false),
        exclude_ports: ports(fields),
        ring_bytes: ring(fields),
        connections_max: fields.count("max_connections", 16_384, (16, 1_048_576)),
    }
}

fn events(fields: &mut Fields<'_, '_>) -> Vec<KernelEvents> {
    let Some(words) = fields.texts("events") else {
        return KernelEvents::ALL.to_vec();
    };
    if words.is_empty() {
        let node = fields.node;
        fields.fail(node, "events", "at least one kind of events belongs here");
    }
    let known = KernelEvents::ALL.map(KernelEvents::word);
    let mut events = Vec::new();
    for (node, word) in words {
        let kind = KernelEvents::ALL
            .into_iter()
            .find(|kind| kind.word() == word);
        match kind {
            Some(kind) if events.contains(&kind) => {
                fields.fail(node, "events", format!("{word:?} occurs twice"));
            }
            Some(kind) => events.push(kind),
            None => {
                let hint = nearest(word, known).map_or_else(
                    || format!("known: {}", known.join(", ")),
                    |near| format!("did you mean {near:?}?"),
                );
                fields.fail(node, "events", format!("unknown kind of events, {hint}"));
            }
        }
    }
    events
}

fn ports(fields: &mut Fields<'_, '_>) -> Vec<u16> {
    let words = fields.texts("exclude_ports").unwrap_or_default();
    if words.len() > PORTS_MAX {
        let node = fields.node;
        fields.fail(
            node,
            "exclude_ports",
            format!("more than {PORTS_MAX} ports"),
        );
        return Vec::new();
    }
    let mut ports = Vec::new();
    for (node, word) in words {
        match word.parse::<u16>() {
            Ok(port) if port != 0 => ports.push(port),
            _ => fields.fail(
                node,
                "exclude_ports",
                format!("{word:?} is not a port from 1 to 65535"),
            ),
        }
    }
    ports
}

fn ring(fields: &mut Fields<'_, '_>) -> usize {
    const DEFAULT: usize = 4 * MIB;
    let bytes = fields.size("ring", DEFAULT, (64 * KIB, 64 * MIB));
    if bytes.is_power_of_two() {
        return bytes;
    }
    let node = fields.get("ring").unwrap_or(fields.node);
    fields.fail(
        node,
        "ring",
        "the kernel wants a power of two, such as 1MiB, 2MiB or 4MiB",
    );
    DEFAULT
}

/// Refuses a second source of kernel events.
pub(super) fn alone(fields: &mut Fields<'_, '_>, sources: &[(String, Option<SourceConfig>)]) {
    let kernels = sources.iter().filter(|(_, source)| {
        source
            .as_ref()
            .is_some_and(|source| matches!(source.kind, SourceKind::Kernel(_)))
    });
    for (id, _) in kernels.skip(1) {
        let node = fields
            .node
            .at(&["sources", id.as_str(), "kind"])
            .unwrap_or(fields.node);
        let message = "one source of kernel events is enough: name all kinds in its `events`";
        fields.fail(node, &format!("sources.{id}.kind"), message);
    }
}
