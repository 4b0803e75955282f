//! Adds up random numbers below 100,000,000 until one of two things happens: 1234
//! comes up, or two seconds have passed.
//!
//! `cargo run --release --example sum_until`
//! `cargo run --release --example sum_until -- --wanted 99 --below 100 --millis 500`

use quell::Context;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

fn main() {
    let wanted = argument("--wanted").unwrap_or(1234);
    let below = argument("--below").unwrap_or(100_000_000).max(1);
    let limit = Duration::from_millis(argument("--millis").unwrap_or(2000));

    let (ctx, _canceller) = Context::background().with_timeout(limit);
    let mut random = Random::new();
    let (mut sum, mut iterations) = (0_u128, 0_u64);
    let reason = loop {
        if let Err(cancelled) = ctx.check() {
            break format!("timeout: {cancelled}");
        }
        let number = random.below(below);
        sum += u128::from(number);
        iterations += 1;
        if number == wanted {
            break format!("number reached: {wanted}");
        }
    };
    println!("sum: {sum}");
    println!("iterations: {iterations}");
    println!("reason: {reason}");
}

fn argument(name: &str) -> Option<u64> {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    arguments.nth(1)?.parse().ok()
}

/// Random enough for this: a well-mixed counter.
struct Random(u64);

impl Random {
    fn new() -> Random {
        Random(RandomState::new().hash_one(0))
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut number = self.0;
        number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let number = number ^ (number >> 31);
        // The upper half of a product is as evenly spread as the number.
        ((u128::from(number) * u128::from(limit)) >> 64) as u64
    }
}
