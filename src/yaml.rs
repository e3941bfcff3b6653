//! The guarded YAML door: size, depth, alias and duplicate-key limits, spans. The only file that names the YAML crates.
