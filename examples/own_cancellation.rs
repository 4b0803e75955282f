//! Cancellation in your own code: π by Leibniz' series, computed for as long as the
//! context allows.
//!
//! `cargo run --release --example own_cancellation -- --millis 1000 --digits 100`

use quell::{Cancelled, Context};
use std::fmt;
use std::time::Duration;

/// 4 - 4/3 + 4/5 - 4/7 …, until `ctx` ends. Returns the sum so far, its number of terms, and
/// why there are no more: a partial result is worth having here.
fn leibniz(ctx: &Context, digits: usize) -> (Fixed, u64, Cancelled) {
    let mut sum = Fixed::zero(digits);
    for term in 0.. {
        if let Err(cancelled) = ctx.check() {
            return (sum, term, cancelled);
        }
        let next = Fixed::ratio(4, 2 * term + 1, digits);
        if term % 2 == 0 { sum.add(&next) } else { sum.subtract(&next) }
    }
    unreachable!("the series has no end")
}

fn main() {
    let millis = argument("--millis").unwrap_or(1000);
    let digits = argument("--digits").unwrap_or(100) as usize;

    let limit = Duration::from_millis(millis);
    let (ctx, _canceller) =
        Context::background().with_timeout_cause(limit, format!("{limit:?} are enough"));
    let (pi, terms, cancelled) = leibniz(&ctx, digits);
    println!("stopped after {terms} iterations");
    println!("{pi}");
    println!("{cancelled}: {}", cancelled.cause());
}

fn argument(name: &str) -> Option<u64> {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    arguments.nth(1)?.parse().ok()
}

/// A number from 0 to 999,999,999 with any number of decimals, nine to a limb.
struct Fixed {
    limbs: Vec<u64>,
    digits: usize,
}

const BASE: u64 = 1_000_000_000;

impl Fixed {
    fn zero(digits: usize) -> Fixed {
        // One limb before the point, and one more than is shown.
        Fixed { limbs: vec![0; digits.div_ceil(9) + 2], digits }
    }

    fn ratio(above: u64, below: u64, digits: usize) -> Fixed {
        let mut ratio = Fixed::zero(digits);
        let mut rest = u128::from(above);
        for limb in &mut ratio.limbs {
            *limb = (rest / u128::from(below)) as u64;
            rest = rest % u128::from(below) * u128::from(BASE);
        }
        ratio
    }

    fn add(&mut self, other: &Fixed) {
        let mut carry = 0;
        for (limb, other) in self.limbs.iter_mut().zip(&other.limbs).rev() {
            let sum = *limb + other + carry;
            (*limb, carry) = (sum % BASE, sum / BASE);
        }
    }

    fn subtract(&mut self, other: &Fixed) {
        let mut borrow = 0;
        for (limb, other) in self.limbs.iter_mut().zip(&other.limbs).rev() {
            let difference = *limb + BASE - other - borrow;
            (*limb, borrow) = (difference % BASE, u64::from(difference < BASE));
        }
    }
}

impl fmt::Display for Fixed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimals: String = self.limbs[1..].iter().map(|limb| format!("{limb:09}")).collect();
        write!(f, "{}.{}", self.limbs[0], &decimals[..self.digits])
    }
}
