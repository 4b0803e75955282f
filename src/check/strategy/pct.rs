//! Priorities that change a few times: tasks get random priorities, the highest that is ready goes
//! next, and at a few turns chosen beforehand the task on top falls to the bottom.
//!
//! It finds a bug that needs an order among `depth` events with a probability that has a bound,
//! however many tasks there are (Burckhardt and others, 2010).
//!
//! A task that has had very many turns in a row falls as well: it gives its turn away again and again,
//! and may wait for one that comes after it.

use super::{Dice, Length, Next, Point, Share, Strategy, Turn};

/// The greatest depth: each turn searches all the turns at which a task falls.
const DEEPEST: u32 = 1_000;

/// The most turns that a task has in a row while others are ready.
const LONGEST_ROW: u32 = 100;

#[derive(Debug)]
pub(crate) struct Pct {
    seed: u64,
    depth: u32,
    share: Share,
    round: u64,
    dice: Dice,
    /// By task; that of time is `time`.
    priorities: Vec<u64>,
    time: u64,
    /// The turns at which the task on top falls.
    falls: Vec<u32>,
    fallen: u64,
    turns: u32,
    /// The task whose turn was last, and how many it had in a row.
    row: (u32, u32),
    target: u32,
    /// The length of a schedule in order.
    usual: Length,
    /// How many points the first schedule that counts has.
    first: u32,
    /// The injection comes at no point beyond this one.
    farthest: u32,
    stage: Stage,
    cut: bool,
}

/// What the schedules are for.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    New,
    /// To see what is usual, in order.
    Measures,
    /// To see how many points the first schedule that counts has, without its injection. So in a
    /// run of a single schedule the injection comes if there is any point.
    Rehearses,
    Counts,
}

impl Pct {
    /// `cut`: more schedules were asked for.
    pub(crate) fn new(seed: u64, depth: u32, share: Share, farthest: u32, cut: bool) -> Self {
        Pct {
            seed,
            depth: depth.clamp(1, DEEPEST),
            share,
            round: 0,
            dice: Dice::new(seed, 0),
            priorities: Vec::new(),
            time: 0,
            falls: Vec::new(),
            fallen: 0,
            turns: 0,
            row: (0, 0),
            target: 0,
            usual: Length { points: 0, turns: 0, steps: 0 },
            first: 0,
            farthest,
            stage: Stage::New,
            cut,
        }
    }

    /// How the schedule of this number goes.
    fn roll(&mut self, round: u64) {
        self.dice = Dice::new(self.seed, round);
        self.priorities.clear();
        self.time = self.fresh() >> 1;
        self.falls.clear();
        for _ in 1..self.depth {
            let fall = self.dice.place(self.usual.turns + 1, self.farthest);
            self.falls.push(fall);
        }
        (self.fallen, self.turns, self.row) = (1 << 32, 0, (0, 0));
        let points = self.usual.points + self.usual.points / 8 + 1;
        self.target = self.dice.place(points, self.farthest);
    }

    /// A new priority, above all that have fallen.
    fn fresh(&mut self) -> u64 {
        self.dice.roll() | 1 << 63
    }

    /// The priority of a task that has none yet; the tasks before it get theirs first.
    #[cold]
    fn new_priority(&mut self, task: u32) -> u64 {
        while self.priorities.len() <= task as usize {
            let fresh = self.fresh();
            self.priorities.push(fresh);
        }
        self.priorities[task as usize]
    }

    /// How many tasks are passed over for the highest.
    fn highest(&mut self, turn: &Turn<'_>) -> u32 {
        let (mut place, mut best, mut highest) = (0, 0, 0);
        // Two loops are faster than one that crosses from one part of the queue to the other.
        let (front, back) = turn.ready.as_slices();
        for part in [front, back] {
            for &task in part {
                let priority = match self.priorities.get(task as usize) {
                    Some(&known) => known,
                    None => self.new_priority(task),
                };
                if priority > highest {
                    (best, highest) = (place, priority);
                }
                place += 1;
            }
        }
        if turn.time && self.time > highest { place } else { best }
    }
}

impl Strategy for Pct {
    fn next(&mut self) -> Next {
        if self.stage == Stage::New {
            self.stage = Stage::Measures;
            self.target = u32::MAX;
            return Next::Run { counts: false };
        }
        let Some(round) = self.share.first_from(self.round) else { return Next::Over };
        self.roll(round);
        if round == 0 && self.stage == Stage::Measures {
            self.stage = Stage::Rehearses;
            self.target = u32::MAX;
            return Next::Run { counts: false };
        }
        if self.stage == Stage::Rehearses {
            self.target %= self.first.max(1);
        }
        self.stage = Stage::Counts;
        self.round = round + 1;
        Next::Run { counts: true }
    }

    fn turn(&mut self, turn: &Turn<'_>) -> u32 {
        if self.stage == Stage::Measures {
            return 0;
        }
        let mut place = self.highest(turn);
        let on_top = turn.ready.get(place as usize).copied();
        let again = on_top == Some(self.row.0);
        if self.falls.contains(&self.turns) || (again && self.row.1 >= LONGEST_ROW) {
            self.fallen -= 1;
            match on_top {
                Some(task) => self.priorities[task as usize] = self.fallen,
                None => self.time = self.fallen,
            }
            place = self.highest(turn);
        }
        if let Some(&task) = turn.ready.get(place as usize) {
            self.row = if task == self.row.0 { (task, self.row.1 + 1) } else { (task, 1) };
        }
        if place as usize == turn.ready.len() {
            // Otherwise time would move on and on, above all past tasks that have fallen: for ever,
            // if each move wakes a task that comes before them.
            let has_fallen = |&task: &u32| self.priorities[task as usize] <= 1 << 32;
            self.time = if turn.ready.iter().any(has_fallen) {
                self.fallen -= 1;
                self.fallen
            } else {
                self.fresh() >> 1
            };
        }
        self.turns += 1;
        place
    }

    fn choose(&mut self, _at: u32, _hash: u32, of: u32) -> u32 {
        if self.stage == Stage::Measures { 0 } else { self.dice.below(of) }
    }

    fn strikes(&mut self, point: &Point) -> bool {
        point.number == self.target
    }

    fn over(&mut self, length: Length) {
        match self.stage {
            Stage::Measures => self.usual = length,
            Stage::Rehearses => self.first = length.points,
            Stage::New | Stage::Counts => {}
        }
    }

    fn was_cut(&self) -> bool {
        self.cut
    }

    fn covered(&self) -> String {
        let (depth, seed) = (self.depth, self.seed);
        let schedules = crate::check::report::many(self.share.limit, "schedule");
        format!("{schedules} by priorities, depth {depth}, seed {seed}")
    }
}
