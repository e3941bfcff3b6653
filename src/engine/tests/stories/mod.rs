//! Stories: what the supervisor does in a situation, from beginning to end, told in a text file beside this one that is
//! compared with what it does now. A difference in one of them is a difference that somebody outside can see.
//!
//! `ADJUTANT_STORIES_WRITE=1 cargo test --lib stories` tells them anew; their diff is then what has to be judged.

mod changes;
mod child;
mod faults;
mod gate;
mod host;
mod house;
mod lives;
mod offers;
mod people;
#[cfg(feature = "registration")]
mod registered;
mod tape;

use house::House;

/// A program that says nothing about itself, with one local file.
const MUTE: &str = "it: {profile: mute, executable: /bin/sh, config_files: [/etc/a.yaml], apply: {probation: 10s}}";

const OFFER: &str = "exporters: {new: {}}\n";

/// One agent with one local file that has been there for a while.
fn calm(agents: &str) -> House {
    let mut house = House::of(agents);
    house.file("it", "/etc/a.yaml", "receivers: {a: {}}\n");
    house.calm();
    house
}
