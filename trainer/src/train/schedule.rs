//! What happens at which step: phases, learning rates, the rising sparsity target.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The three parts of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The vectors learn the task; gates start open and carry no penalty.
    Learn,
    /// The penalty closes gates while the vectors adapt.
    Prune,
    /// Gates are fixed; the vectors of the open ones are trained on.
    Polish,
}

impl Phase {
    /// Lower-case name for logs.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Learn => "learn",
            Phase::Prune => "prune",
            Phase::Polish => "polish",
        }
    }
}

/// One stage of a run: gates close down to its target, then what is left is polished.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Stage {
    /// Which of the run's targets its gates are closed to.
    pub level: usize,
    /// Steps of [`Phase::Prune`].
    pub prune: usize,
    /// Steps of [`Phase::Polish`].
    pub polish: usize,
}

impl Stage {
    fn steps(self) -> usize {
        self.prune + self.polish
    }
}

/// Number of steps of each phase; they follow each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Steps of [`Phase::Learn`].
    pub learn: usize,
    /// The stages, one at least; the later ones start from what an earlier one left.
    pub stages: Vec<Stage>,
}

/// Where in a run a step lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The phase.
    pub phase: Phase,
    /// The stage that the step belongs to; the learn phase is part of the first.
    pub stage: usize,
    /// The stage's [`Stage::level`].
    pub level: usize,
    /// Steps of this phase and stage before it.
    pub done: usize,
    /// Steps of this phase and stage.
    pub span: usize,
}

impl Place {
    /// How far its phase has come after the step, (0, 1].
    pub fn progress(self) -> f64 {
        (self.done + 1) as f64 / self.span as f64
    }

    /// Where it lies in its phase's cycle, when the phase has `count` of them: steps of the cycle
    /// before it, and in all.
    pub fn in_cycle(self, count: usize) -> (usize, usize) {
        let count = count.clamp(1, self.span);
        let start = |cycle: usize| (cycle * self.span).div_ceil(count);
        let cycle = self.done * count / self.span;
        let from = start(cycle);
        (self.done - from, start(cycle + 1) - from)
    }

    /// Whether the step is the last of its phase.
    pub fn is_last(self) -> bool {
        self.done + 1 == self.span
    }
}

/// Of the steps of a path, the part of the learn phase, and of the dense edit's polish. The
/// later stages share the rest.
const PATH_LEARN: f64 = 0.15;
const PATH_DENSE: f64 = 0.23;
/// Of the steps of a later stage, the part of its prune phase.
const PATH_PRUNE: f64 = 0.25;

impl Plan {
    /// One stage: splits `steps` by the shares of the first two phases; the rest is polish.
    pub fn new(steps: usize, learn_share: f64, prune_share: f64) -> Plan {
        let learn = part(steps, learn_share);
        let prune = part(steps, prune_share).min(steps - learn);
        let polish = steps - learn - prune;
        Plan {
            learn,
            stages: vec![Stage {
                level: 0,
                prune,
                polish,
            }],
        }
    }

    /// A stage for each of these levels: the first polishes the dense edit, each later one goes on
    /// from that, closes gates and polishes what is left, unless it is planned anew.
    pub fn path(steps: usize, levels: &[usize]) -> Plan {
        let learn = part(steps, PATH_LEARN);
        let polish = part(steps, PATH_DENSE);
        let (left, later) = (steps - learn - polish, levels.len() - 1);
        let stages = levels.iter().enumerate().map(|(index, &level)| {
            if index == 0 {
                return Stage {
                    level,
                    prune: 0,
                    polish,
                };
            }
            // What does not divide goes to the last ones.
            let own = left * index / later - left * (index - 1) / later;
            let prune = part(own, PATH_PRUNE);
            Stage {
                level,
                prune,
                polish: own - prune,
            }
        });
        Plan {
            learn,
            stages: stages.collect(),
        }
    }

    /// Steps of all phases.
    pub fn steps(&self) -> usize {
        self.end(self.stages.len() - 1)
    }

    /// Steps until a stage is done.
    pub fn end(&self, stage: usize) -> usize {
        let stages = self.stages[..=stage].iter();
        self.learn + stages.map(|stage| stage.steps()).sum::<usize>()
    }

    /// Steps until a stage's gates are fixed.
    pub fn choice(&self, stage: usize) -> usize {
        self.end(stage) - self.stages[stage].polish
    }

    /// Where step `step` (from 0) lies.
    pub fn place(&self, step: usize) -> Place {
        let place = |phase, stage: usize, done, span| Place {
            phase,
            stage,
            level: self.stages[stage].level,
            done,
            span,
        };
        if step < self.learn {
            return place(Phase::Learn, 0, step, self.learn);
        }
        let mut done = step - self.learn;
        for (index, stage) in self.stages.iter().enumerate() {
            if done < stage.prune {
                return place(Phase::Prune, index, done, stage.prune);
            }
            done -= stage.prune;
            if done < stage.polish {
                return place(Phase::Polish, index, done, stage.polish);
            }
            done -= stage.polish;
        }
        panic!("step {step} of {}", self.steps());
    }

    /// Whether `step` is followed by a validation: in a stage's polish phase (in all steps of
    /// the stage without one) `validations` times in even distances, the last after the last
    /// step.
    pub fn validates_after(&self, step: usize, validations: usize) -> bool {
        let stage = self.place(step).stage;
        let end = self.end(stage);
        let span = match self.stages[stage].polish {
            0 if stage == 0 => end,
            0 => self.stages[stage].steps(),
            polish => polish,
        };
        let Some(before) = step.checked_sub(end - span) else {
            return false;
        };
        let count = validations.clamp(1, span);
        (before + 1) * count / span != before * count / span
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "learn {}", self.learn)?;
        for Stage { prune, polish, .. } in &self.stages {
            write!(f, ", prune {prune}, polish {polish}")?;
        }
        Ok(())
    }
}

fn part(steps: usize, share: f64) -> usize {
    ((steps as f64 * share).round() as usize).min(steps)
}

/// Factor on the learning rate: linear warm-up over `warmup` steps, then a cosine from 1 to
/// `floor` at the last step.
pub fn warmup_cosine(step: usize, steps: usize, warmup: usize, floor: f64) -> f64 {
    if step < warmup {
        return (step + 1) as f64 / warmup as f64;
    }
    let span = steps.saturating_sub(warmup).saturating_sub(1).max(1) as f64;
    let t = ((step - warmup) as f64 / span).min(1.0);
    floor + (1.0 - floor) * 0.5 * (1.0 + (std::f64::consts::PI * t).cos())
}

/// How far the penalty has been raised: from 0 to 1 over the first `share` of the prune
/// phase (`progress` as in [`Place::progress`]), fast at first and slower and slower
/// (Zhu and Gupta 2017), because the last gates are the hardest to do without.
pub fn ramp(progress: f64, share: f64) -> f64 {
    1.0 - (1.0 - (progress / share).clamp(0.0, 1.0)).powi(3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_follow_each_other_and_cover_all_steps() {
        let plan = Plan::new(100, 0.4, 0.35);
        let stage = Stage {
            level: 0,
            prune: 35,
            polish: 25,
        };
        assert_eq!((plan.learn, &plan.stages[..]), (40, &[stage][..]));
        assert_eq!((plan.steps(), plan.choice(0)), (100, 75));
        let phases: Vec<Phase> = [0, 39, 40, 74, 75, 99]
            .map(|s| plan.place(s).phase)
            .to_vec();
        use Phase::{Learn, Polish, Prune};
        assert_eq!(phases, [Learn, Learn, Prune, Prune, Polish, Polish]);
        assert!((plan.place(40).progress() - 1.0 / 35.0).abs() < 1e-12);
        assert_eq!(plan.place(74).progress(), 1.0);
        assert!(plan.place(74).is_last() && !plan.place(73).is_last());
        for steps in 0..12 {
            assert_eq!(Plan::new(steps, 0.4, 0.35).steps(), steps);
        }
    }

    #[test]
    fn a_path_goes_through_all_stages_in_order() {
        for steps in [48, 100, 751] {
            let plan = Plan::path(steps, &[0, 3, 2]);
            assert_eq!(plan.steps(), steps);
            let places: Vec<Place> = (0..steps).map(|step| plan.place(step)).collect();
            assert!(places.windows(2).all(|pair| match pair[0].is_last() {
                false =>
                    pair[1]
                        == Place {
                            done: pair[0].done + 1,
                            ..pair[0]
                        },
                true => pair[1].done == 0 && pair[1].stage - pair[0].stage <= 1,
            }));
            assert_eq!((places[steps - 1].stage, places[steps - 1].level), (2, 2));
            assert!(plan.stages[1..]
                .iter()
                .all(|stage| stage.prune > 0 && stage.polish > 0));
            // Each stage's polish ends with a validation.
            for stage in 0..3 {
                assert!(plan.validates_after(plan.end(stage) - 1, 2));
                let (from, to) = (plan.choice(stage), plan.end(stage));
                let count = (from..to)
                    .filter(|step| plan.validates_after(*step, 2))
                    .count();
                assert_eq!(count, 2.min(to - from));
            }
            let all = (0..steps)
                .filter(|step| plan.validates_after(*step, 2))
                .count();
            assert_eq!(all, 6);
        }
    }

    #[test]
    fn a_phase_falls_into_cycles_that_end_where_it_is_validated() {
        for (steps, count) in [(10, 4), (173, 4), (231, 5), (3, 5), (7, 1)] {
            let plan = Plan::new(steps, 0.0, 0.0);
            let mut expected = 0;
            let mut ends = 0;
            for step in 0..steps {
                let (done, span) = plan.place(step).in_cycle(count);
                assert_eq!(done, expected, "{step} of {steps} in {count}");
                let last = done + 1 == span;
                assert_eq!(last, plan.validates_after(step, count));
                ends += usize::from(last);
                expected = if last { 0 } else { done + 1 };
            }
            assert_eq!((expected, ends), (0, count.min(steps)));
        }
    }

    #[test]
    fn learning_rate_warms_up_and_falls_to_the_floor() {
        let f = |step| warmup_cosine(step, 101, 10, 0.1);
        assert!((f(0) - 0.1).abs() < 1e-12 && (f(9) - 1.0).abs() < 1e-12);
        assert!((f(10) - 1.0).abs() < 1e-12);
        assert!((f(55) - 0.55).abs() < 1e-12);
        assert!((f(100) - 0.1).abs() < 1e-12);
        assert!((10..100).all(|s| f(s) > f(s + 1)));
        assert!(warmup_cosine(0, 1, 0, 0.0).is_finite());
    }

    #[test]
    fn penalty_ramps() {
        assert_eq!(ramp(0.0, 0.8), 0.0);
        assert!((ramp(0.4, 0.8) - 0.875).abs() < 1e-12);
        assert_eq!(ramp(-0.1, 0.8), 0.0);
        assert_eq!(ramp(0.9, 0.8), 1.0);
    }
}
