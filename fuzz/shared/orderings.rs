// What the target `cancel_orderings` does with its bytes; a test does the same with the corpus.

use quell::{Canceller, Context, ContextError};

/// A plain model of a context: its parent, and whether and why it ended.
struct Plain {
    parent: Option<usize>,
    cut: bool,
    ended: Option<String>,
}

struct Pair {
    ctx: Context,
    canceller: Option<Canceller>,
    plain: usize,
}

pub fn run(bytes: &[u8]) {
    let mut plain: Vec<Plain> = Vec::new();
    let mut pairs: Vec<Pair> = Vec::new();
    for (step, chunk) in bytes.chunks(2).take(256).enumerate() {
        let (what, which) = (chunk[0], usize::from(*chunk.get(1).unwrap_or(&0)));
        let at = if pairs.is_empty() { None } else { Some(which % pairs.len()) };
        match (what % 8, at) {
            (0, _) | (_, None) => {
                let (ctx, canceller) = Context::background().with_cancel();
                plain.push(Plain { parent: None, cut: false, ended: None });
                pairs.push(Pair { ctx, canceller: Some(canceller), plain: plain.len() - 1 });
            }
            (1 | 2, Some(at)) => {
                let (ctx, canceller) = pairs[at].ctx.with_cancel();
                let parent = pairs[at].plain;
                let ended = plain[parent].ended.clone();
                plain.push(Plain { parent: Some(parent), cut: false, ended });
                pairs.push(Pair { ctx, canceller: Some(canceller), plain: plain.len() - 1 });
            }
            (3, Some(at)) => {
                let ctx = pairs[at].ctx.without_cancel();
                plain.push(Plain { parent: Some(pairs[at].plain), cut: true, ended: None });
                pairs.push(Pair { ctx, canceller: None, plain: plain.len() - 1 });
            }
            (4, Some(at)) => {
                let ctx = pairs[at].ctx.with_value(step);
                let parent = pairs[at].plain;
                let ended = plain[parent].ended.clone();
                plain.push(Plain { parent: Some(parent), cut: false, ended });
                assert_eq!(ctx.value::<usize>(), Some(&step));
                pairs.push(Pair { ctx, canceller: None, plain: plain.len() - 1 });
            }
            (5, Some(at)) => {
                if let Some(canceller) = &pairs[at].canceller {
                    let cause = format!("step {step}");
                    canceller.cancel_with(cause.clone());
                    end(&mut plain, pairs[at].plain, &cause);
                }
            }
            (6, Some(at)) => {
                // Dropping the last canceller ends the context; the cause names the line.
                if let Some(canceller) = pairs[at].canceller.take() {
                    drop(canceller);
                    end(&mut plain, pairs[at].plain, "dropped");
                }
            }
            (_, Some(at)) => {
                // A handle is dropped; its context lives on in those derived from it.
                let gone = pairs.swap_remove(at);
                if gone.canceller.is_some() {
                    end(&mut plain, gone.plain, "dropped");
                }
            }
        }
        for pair in &pairs {
            let expected = &plain[pair.plain].ended;
            assert_eq!(pair.ctx.is_done(), expected.is_some());
            assert_eq!(pair.ctx.err(), expected.as_ref().map(|_| ContextError::Cancelled));
            match (pair.ctx.cause(), expected) {
                (None, None) => {}
                (Some(cause), Some(why)) if why == "dropped" => {
                    assert!(cause.to_string().contains("was dropped"), "{cause}");
                }
                (Some(cause), Some(why)) => assert_eq!(cause.to_string(), *why),
                (cause, expected) => panic!("{cause:?}, and it should be {expected:?}"),
            }
        }
    }
}

/// Ends a context, and all below it that have not ended.
fn end(plain: &mut [Plain], which: usize, why: &str) {
    if plain[which].ended.is_some() {
        return;
    }
    plain[which].ended = Some(why.to_string());
    // Children come after their parents.
    for at in which + 1..plain.len() {
        let below = plain[at]
            .parent
            .is_some_and(|parent| !plain[at].cut && plain[parent].ended.as_deref() == Some(why));
        if below && plain[at].ended.is_none() && descends(plain, at, which) {
            plain[at].ended = Some(why.to_string());
        }
    }
}

fn descends(plain: &[Plain], mut at: usize, from: usize) -> bool {
    while let Some(parent) = plain[at].parent.filter(|_| !plain[at].cut) {
        if parent == from {
            return true;
        }
        at = parent;
    }
    false
}
