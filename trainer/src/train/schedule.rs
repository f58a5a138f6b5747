//! What happens at which step: phases, learning rates, the rising sparsity target.

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

/// Number of steps of each phase; they follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Steps of [`Phase::Learn`].
    pub learn: usize,
    /// Steps of [`Phase::Prune`].
    pub prune: usize,
    /// Steps of [`Phase::Polish`].
    pub polish: usize,
}

impl Plan {
    /// Splits `steps` by the shares of the first two phases; the rest is polish.
    pub fn new(steps: usize, learn_share: f64, prune_share: f64) -> Plan {
        let part = |share: f64| (steps as f64 * share).round() as usize;
        let learn = part(learn_share).min(steps);
        let prune = part(prune_share).min(steps - learn);
        Plan {
            learn,
            prune,
            polish: steps - learn - prune,
        }
    }

    /// Steps of all phases.
    pub fn steps(&self) -> usize {
        self.learn + self.prune + self.polish
    }

    /// Steps until heads are chosen.
    pub fn choice(&self) -> usize {
        self.learn + self.prune
    }

    /// The phase of step `step` (from 0).
    pub fn phase(&self, step: usize) -> Phase {
        if step < self.learn {
            Phase::Learn
        } else if step < self.learn + self.prune {
            Phase::Prune
        } else {
            Phase::Polish
        }
    }

    /// How far the prune phase has come at step `step`: 0 before it, (0, 1] in it, 1 after it.
    pub fn prune_progress(&self, step: usize) -> f64 {
        if step < self.learn {
            return 0.0;
        }
        let done = (step - self.learn + 1) as f64;
        (done / self.prune.max(1) as f64).min(1.0)
    }

    /// Whether `step` is followed by a validation: in the polish phase (in all steps without
    /// one) `validations` times in even distances, the last after the last step.
    pub fn validates_after(&self, step: usize, validations: usize) -> bool {
        let (start, span) = match self.polish {
            0 => (0, self.steps()),
            polish => (self.choice(), polish),
        };
        if step < start {
            return false;
        }
        let done = step + 1 - start;
        let count = validations.clamp(1, span);
        done * count / span != (done - 1) * count / span
    }
}

/// Factor on the learning rate: linear warm-up over `warmup` steps, 1 up to step `hold`, then
/// a cosine from 1 to `floor` at the last step.
pub fn warmup_cosine(step: usize, steps: usize, warmup: usize, hold: usize, floor: f64) -> f64 {
    if step < warmup {
        return (step + 1) as f64 / warmup as f64;
    }
    let start = warmup.max(hold);
    let span = steps.saturating_sub(start).saturating_sub(1).max(1) as f64;
    let t = (step.saturating_sub(start) as f64 / span).min(1.0);
    floor + (1.0 - floor) * 0.5 * (1.0 + (std::f64::consts::PI * t).cos())
}

/// How far the penalty has been raised: from 0 to 1 over the first `share` of the prune
/// phase (`progress` as in [`Plan::prune_progress`]), fast at first and slower and slower
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
        assert_eq!(
            plan,
            Plan {
                learn: 40,
                prune: 35,
                polish: 25
            }
        );
        assert_eq!(plan.steps(), 100);
        let phases: Vec<Phase> = [0, 39, 40, 74, 75, 99].map(|s| plan.phase(s)).to_vec();
        use Phase::{Learn, Polish, Prune};
        assert_eq!(phases, [Learn, Learn, Prune, Prune, Polish, Polish]);
        assert_eq!(plan.prune_progress(39), 0.0);
        assert!((plan.prune_progress(40) - 1.0 / 35.0).abs() < 1e-12);
        assert_eq!(plan.prune_progress(74), 1.0);
        assert_eq!(plan.prune_progress(99), 1.0);
        for steps in 0..12 {
            assert_eq!(Plan::new(steps, 0.4, 0.35).steps(), steps);
        }
    }

    #[test]
    fn learning_rate_warms_up_and_falls_to_the_floor() {
        let f = |step| warmup_cosine(step, 101, 10, 0, 0.1);
        assert!((f(0) - 0.1).abs() < 1e-12 && (f(9) - 1.0).abs() < 1e-12);
        assert!((f(10) - 1.0).abs() < 1e-12);
        assert!((f(55) - 0.55).abs() < 1e-12);
        assert!((f(100) - 0.1).abs() < 1e-12);
        assert!((10..100).all(|s| f(s) > f(s + 1)));
        assert!(warmup_cosine(0, 1, 0, 0, 0.0).is_finite());
    }

    #[test]
    fn learning_rate_is_held_before_it_falls() {
        let f = |step| warmup_cosine(step, 101, 10, 40, 0.1);
        assert!(f(5) < 1.0 && [9, 20, 40].map(f) == [1.0; 3]);
        assert!((40..100).all(|s| f(s) > f(s + 1)));
        assert!((f(70) - 0.55).abs() < 1e-12 && (f(100) - 0.1).abs() < 1e-12);
        assert_eq!(warmup_cosine(3, 4, 0, 4, 0.1), 1.0, "held to the end");
    }

    #[test]
    fn penalty_ramps() {
        assert_eq!(ramp(0.0, 0.8), 0.0);
        assert!((ramp(0.4, 0.8) - 0.875).abs() < 1e-12);
        assert_eq!(ramp(-0.1, 0.8), 0.0);
        assert_eq!(ramp(0.9, 0.8), 1.0);
    }
}
