//! Randomness as a value, so that one seed replays everything.
//!
//! Promises: the same seed gives the same numbers on every machine. Good for jitter, useless for secrets.

/// A xorshift generator (xorshift64*, Vigna 2014).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Builds a generator; any seed will do.
    pub fn seeded(seed: u64) -> Self {
        // Zero is the one state xorshift never leaves.
        Self(seed ^ 0x9e37_79b9_7f4a_7c15 | 1)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number in `[0, 1)`.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit an f64 exactly")]
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A number in `[low, high)`.
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// A whole number below `bound`, or 0 when `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 {
            0
        } else {
            self.next_u64() % bound
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_spread_over_their_range_and_stay_in_it() {
        let mut random = Random::seeded(7);
        let mut tenths = [0u32; 10];
        for _ in 0..10_000 {
            let unit = random.unit();
            assert!((0.0..1.0).contains(&unit));
            let between = random.between(-3.0, 5.0);
            assert!((-3.0..5.0).contains(&between));
            let below = random.below(10);
            tenths[usize::try_from(below).unwrap()] += 1;
        }
        assert!(
            tenths.iter().all(|count| (900..1100).contains(count)),
            "{tenths:?}"
        );
        assert_eq!(random.below(0), 0);
        let mean = (0..10_000).map(|_| random.between(2.0, 4.0)).sum::<f64>() / 10_000.0;
        assert!((2.95..3.05).contains(&mean), "{mean}");
    }

    #[test]
    fn seed_of_an_earlier_version_is_replayed_by_this_one() {
        for (seed, wanted) in [
            (
                0,
                [
                    0x0d83_b3e2_9a21_487a,
                    0x54c4_4c79_f1fe_9d67,
                    0xa845_f342_007a_0e78,
                ],
            ),
            (
                1,
                [
                    0x0d83_b3e2_9a21_487a,
                    0x54c4_4c79_f1fe_9d67,
                    0xa845_f342_007a_0e78,
                ],
            ),
            (
                6,
                [
                    0xad9c_7739_2c67_dfd1,
                    0xf9d4_9036_9813_0a84,
                    0x838e_32f3_582c_daad,
                ],
            ),
            (
                0x9e37_79b9_7f4a_7c15,
                [
                    0x47e4_ce4b_896c_dd1d,
                    0xabcf_a6a8_e079_651d,
                    0xb9d1_0d8f_eb73_1f57,
                ],
            ),
        ] {
            let mut random = Random::seeded(seed);
            assert_eq!([(); 3].map(|()| random.next_u64()), wanted, "{seed}");
        }
        let unit = Random::seeded(7).unit();
        assert!((unit - 0.678_168_727_358_211_7).abs() < 1e-15, "{unit}");
        let between = Random::seeded(7).between(10.0, 30.0);
        assert!(
            (between - 23.563_374_547_164_234).abs() < 1e-12,
            "{between}"
        );
        assert_eq!(Random::seeded(7).below(1000), 489);
    }

    #[test]
    fn a_seed_gives_its_own_numbers_and_always_the_same() {
        let numbers = |seed| {
            let mut random = Random::seeded(seed);
            [(); 4].map(|()| random.next_u64())
        };
        assert_eq!(numbers(2), numbers(2));
        let all: std::collections::BTreeSet<_> = (0..100).step_by(2).flat_map(numbers).collect();
        assert_eq!(all.len(), 200);
        // One bit of a number is as often set as not.
        for bit in 0..64 {
            let set = all.iter().filter(|number| **number >> bit & 1 == 1).count();
            assert!((60..140).contains(&set), "bit {bit}: {set} of 200");
        }
    }
}
