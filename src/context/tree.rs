//! The live subtree, in human-readable form.

use super::display::Shown;
use super::layer::{ContextFamily, Layer};
use crate::sync::{Family, Ref};
use std::collections::HashMap;
use std::fmt;
use std::panic::Location;

/// The result of [`Context::tree`](crate::Context::tree): the contexts below one that can end by
/// themselves and have not. `Display` draws it:
///
/// ```text
/// cancel, made at src/main.rs:12:32
/// ├─ timeout(2s, 1.3s left), made at src/server.rs:40:25
/// │  └─ cancel, made at src/server.rs:71:18
/// └─ cancel, made at src/pool.rs:9:30 (×8)
/// ```
#[derive(Clone, Debug)]
pub struct Tree {
    rows: Vec<Row>,
}

#[derive(Clone, Debug)]
struct Row {
    depth: usize,
    text: String,
    alike: usize,
}

/// Deeper contexts are counted, not drawn.
const DEEPEST: usize = 64;

struct Node {
    address: usize,
    what: String,
    made_at: &'static Location<'static>,
}

impl Tree {
    pub(super) fn of(root: Option<Ref<'_, ContextFamily>>) -> Tree {
        let root_address = root.map_or(BACKGROUND, Ref::address);
        let mut children: HashMap<usize, Vec<Node>> = HashMap::new();
        ContextFamily::roster().visit(|layers| {
            // Addresses are valid while these layers are held.
            let mut passed = HashMap::new();
            for layer in layers {
                let Some(branch) = layer.layer().branch() else { continue };
                if !branch.is_done() {
                    let (parent, cut_off) = parent_in_tree(layer, root_address, &mut passed);
                    let cut = if cut_off { "without_cancel → " } else { "" };
                    children.entry(parent).or_default().push(Node {
                        address: layer.address(),
                        what: format!("{cut}{}", Shown(layer)),
                        made_at: branch.made_at,
                    });
                }
            }
        });
        // A value layer is not drawn: the layer above gives the root's line.
        let mut named = root;
        while let Some(layer) = named.filter(|named| matches!(named.layer(), Layer::Value { .. })) {
            named = layer.parent();
        }
        let text = named.map_or_else(|| "background".to_string(), described);
        let mut tree = Tree { rows: vec![Row { depth: 0, text, alike: 1 }] };
        tree.draw(root_address, children);
        tree
    }

    /// The number of contexts in it, not counting the one whose tree it is.
    pub fn len(&self) -> usize {
        self.rows[1..].iter().map(|line| line.alike).sum()
    }

    /// Whether nothing is alive below the context whose tree it is.
    pub fn is_empty(&self) -> bool {
        self.rows.len() == 1
    }

    fn draw(&mut self, root: usize, mut children: HashMap<usize, Vec<Node>>) {
        let mut open = vec![(1, sorted(children.remove(&root)))];
        while let Some((depth, siblings)) = open.last_mut() {
            let depth = *depth;
            let Some(node) = siblings.pop() else {
                open.pop();
                continue;
            };
            let text = format!("{}, made at {}", node.what, node.made_at);
            let below = sorted(children.remove(&node.address));
            let last = self.rows.last_mut().expect("the root is always there");
            // Children that look the same and have no children share a line.
            if below.is_empty() && last.depth == depth && last.text == text {
                last.alike += 1;
            } else {
                self.rows.push(Row { depth, text, alike: 1 });
            }
            open.push((depth + 1, below));
        }
    }
}

/// Sorts nodes by the source line that made them, last first.
fn sorted(nodes: Option<Vec<Node>>) -> Vec<Node> {
    let mut nodes = nodes.unwrap_or_default();
    nodes.sort_by(|a, b| {
        let place = |node: &Node| (node.made_at.file(), node.made_at.line(), node.made_at.column());
        place(b).cmp(&place(a)).then_with(|| b.what.cmp(&a.what))
    });
    nodes
}

/// The address of no layer.
const BACKGROUND: usize = 0;

/// The address under which a layer is drawn, of the nearest live branch above it or the root; and
/// whether a `without_cancel` lies between.
type Above = (usize, bool);

/// Finds what is above `layer`. Results for the layers on the way are kept in `passed`, so that
/// none is visited twice: many branches may be below many values.
fn parent_in_tree(
    layer: Ref<'_, ContextFamily>,
    root: usize,
    passed: &mut HashMap<usize, Above>,
) -> Above {
    let mut on_the_way = Vec::new();
    let mut next = layer.parent();
    let (parent, mut cut_off) = loop {
        let Some(above) = next else { break (BACKGROUND, false) };
        match above.layer() {
            _ if above.address() == root => break (root, false),
            Layer::Branch(branch) if !branch.is_done() => break (above.address(), false),
            _ => {}
        }
        if let Some(&found) = passed.get(&above.address()) {
            break found;
        }
        on_the_way.push(above);
        next = above.parent();
    };
    for above in on_the_way.into_iter().rev() {
        cut_off |= matches!(above.layer(), Layer::Detached { .. });
        passed.insert(above.address(), (parent, cut_off));
    }
    (parent, cut_off)
}

/// The root's line.
fn described(layer: Ref<'_, ContextFamily>) -> String {
    let what = Shown(layer);
    match layer.layer() {
        Layer::Branch(branch) => {
            let ended = branch.look().map_or(String::new(), |cause| format!(", {}", cause.end()));
            format!("{what}, made at {}{ended}", branch.made_at)
        }
        Layer::Todo { made_at } | Layer::Detached { made_at, .. } => {
            format!("{what}, made at {made_at}")
        }
        Layer::Value { .. } => unreachable!("looked past, above"),
    }
}

impl Tree {
    /// For each row, a bit for each depth at which a sibling follows below it.
    fn bars(&self) -> Vec<u64> {
        let mut bars = vec![0; self.rows.len()];
        let mut below = 0;
        for (row, bars) in self.rows.iter().zip(&mut bars).rev() {
            *bars = below;
            // Bars deeper than this row do not go on past it.
            if (1..=DEEPEST).contains(&row.depth) {
                below = (below & (bit(row.depth) - 1)) | bit(row.depth);
            }
        }
        bars
    }
}

/// The bit of a depth from 1 to [`DEEPEST`].
fn bit(depth: usize) -> u64 {
    1 << (depth - 1)
}

impl fmt::Display for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut deeper = 0;
        for (at, (line, bars)) in self.rows.iter().zip(self.bars()).enumerate() {
            if line.depth > DEEPEST {
                deeper += line.alike;
                continue;
            }
            if at > 0 {
                f.write_str("\n")?;
            }
            let more_at = |depth: usize| bars & bit(depth) != 0;
            for depth in 1..line.depth {
                f.write_str(if more_at(depth) { "│  " } else { "   " })?;
            }
            if line.depth > 0 {
                f.write_str(if more_at(line.depth) { "├─ " } else { "└─ " })?;
            }
            f.write_str(&line.text)?;
            if line.alike > 1 {
                write!(f, " (×{})", line.alike)?;
            }
        }
        if deeper > 0 {
            write!(f, "\n… and {deeper} deeper")?;
        }
        Ok(())
    }
}
