//! How sure a measured number is: quantiles, intervals, and tests of a difference.

/// Resamples of every bootstrap.
pub const RESAMPLES: usize = 2000;
/// Seed of every bootstrap: the same rows give the same interval.
const SEED: u64 = 42;

/// Quantile by linear interpolation; NaN of nothing.
pub fn quantile(mut values: Vec<f64>, q: f64) -> f64 {
    if values.is_empty() {
        return f64::NAN;
    }
    values.sort_by(f64::total_cmp);
    let place = q * (values.len() - 1) as f64;
    let (low, high) = (
        values[place.floor() as usize],
        values[place.ceil() as usize],
    );
    low + (high - low) * place.fract()
}

/// 95 % Wilson score interval of a proportion; `[0, 1]` without observations.
pub fn wilson(correct: usize, n: usize) -> [f64; 2] {
    if n == 0 {
        return [0.0, 1.0];
    }
    let (z, n) = (1.959964f64, n as f64);
    let p = correct as f64 / n;
    let centre = (p + z * z / (2.0 * n)) / (1.0 + z * z / n);
    let half = z / (1.0 + z * z / n) * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
    [(centre - half).max(0.0), (centre + half).min(1.0)]
}

/// Percentile bootstrap (Efron 1979), 95 %: `statistic` of rows drawn with replacement.
/// It is given which of the `n` rows were drawn. `[NaN, NaN]` without rows.
pub fn bootstrap(n: usize, statistic: impl Fn(&[usize]) -> f64) -> [f64; 2] {
    percentiles(resample(n, statistic))
}

/// Paired bootstrap test, two-sided: how likely a difference between two systems is at
/// least as large as the observed one if there is none. `difference` is of the rows drawn,
/// the same for both systems. p is the share of resamples that lie at least as far from the
/// observed difference as that lies from 0 (Efron, Tibshirani 1993, chapter 16).
pub fn paired_bootstrap(n: usize, difference: impl Fn(&[usize]) -> f64) -> f64 {
    let observed = difference(&(0..n).collect::<Vec<_>>());
    let resampled = resample(n, difference);
    let as_far = |d: &&f64| (**d - observed).abs() >= observed.abs();
    let far = resampled.iter().filter(as_far).count();
    (far + 1) as f64 / (resampled.len() + 1) as f64
}

/// Exact two-sided McNemar test: of the rows that only one of two systems gets right, one
/// system has `b` and the other `c`. p of a fair coin falling at least as unevenly.
pub fn mcnemar(b: usize, c: usize) -> f64 {
    let n = b + c;
    // ln of C(n, k) / 2^n, from k = 0 on.
    let mut ln_term = -(n as f64) * std::f64::consts::LN_2;
    let mut tail = 0.0;
    for k in 0..=b.min(c) {
        tail += ln_term.exp();
        ln_term += ((n - k) as f64).ln() - ((k + 1) as f64).ln();
    }
    (2.0 * tail).min(1.0)
}

fn resample(n: usize, statistic: impl Fn(&[usize]) -> f64) -> Vec<f64> {
    if n == 0 {
        return Vec::new();
    }
    let mut random = fastrand::Rng::with_seed(SEED);
    let mut drawn = vec![0; n];
    (0..RESAMPLES)
        .map(|_| {
            drawn.fill_with(|| random.usize(..n));
            statistic(&drawn)
        })
        .collect()
}

fn percentiles(values: Vec<f64>) -> [f64; 2] {
    [quantile(values.clone(), 0.025), quantile(values, 0.975)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_interpolate() {
        assert_eq!(quantile(vec![3.0, 1.0, 2.0], 0.5), 2.0);
        assert_eq!(quantile(vec![4.0, 1.0, 2.0, 3.0], 0.5), 2.5);
        assert_eq!(quantile(vec![1.0, 2.0], 0.25), 1.25);
        assert!(quantile(Vec::new(), 0.5).is_nan());
    }

    #[test]
    fn wilson_agrees_with_known_values() {
        // 10 of 20: 0.299 … 0.701 (Wilson 1927)
        let [low, high] = wilson(10, 20);
        assert!((low - 0.29930).abs() < 1e-4 && (high - 0.70070).abs() < 1e-4);
        assert_eq!(wilson(0, 0), [0.0, 1.0]);
        assert_eq!(wilson(5, 5)[1], 1.0);
    }

    #[test]
    fn mcnemar_counts_the_tail_of_a_fair_coin() {
        let close = |p: f64, expected: f64| assert!((p / expected - 1.0).abs() < 1e-9, "{p}");
        close(mcnemar(1, 9), 22.0 / 1024.0);
        close(mcnemar(9, 1), 22.0 / 1024.0);
        close(mcnemar(0, 5), 2.0 / 32.0);
        assert_eq!(mcnemar(0, 0), 1.0);
        assert_eq!(mcnemar(4, 4), 1.0);
        // scipy.stats.binomtest(40, 700).pvalue
        close(mcnemar(40, 660), 1.0140876655924e-145);
        assert_eq!(mcnemar(0, 3000), 0.0, "too small for an f64");
    }

    fn mean(values: &[f64]) -> impl Fn(&[usize]) -> f64 + '_ {
        |drawn| drawn.iter().map(|i| values[*i]).sum::<f64>() / drawn.len() as f64
    }

    /// The interval of a mean must come near mean ± 1.96 standard errors.
    #[test]
    fn the_bootstrap_knows_the_standard_error() {
        let values: Vec<f64> = (0..400).map(|i| (i % 20) as f64).collect();
        let [low, high] = bootstrap(values.len(), mean(&values));
        let half = 1.96 * (33.25f64 / 400.0).sqrt();
        assert!((low - (9.5 - half)).abs() < 0.1, "{low}");
        assert!((high - (9.5 + half)).abs() < 0.1, "{high}");
        assert_eq!([low, high], bootstrap(values.len(), mean(&values)));
        assert!(bootstrap(0, |_| 0.0)[0].is_nan());
    }

    #[test]
    fn the_paired_bootstrap_tells_noise_from_a_difference() {
        let noise: Vec<f64> = (0..200).map(|i| ((i * 37) % 101) as f64 - 50.0).collect();
        assert!(paired_bootstrap(200, mean(&noise)) > 0.2);
        let shifted: Vec<f64> = noise.iter().map(|d| d + 20.0).collect();
        let least = 1.0 / (RESAMPLES + 1) as f64;
        assert_eq!(paired_bootstrap(200, mean(&shifted)), least);
        // A system against itself.
        assert_eq!(paired_bootstrap(200, |_| 0.0), 1.0);
    }

    /// Of one row that differs by `n` and `n - 1` rows that do not, the drawn mean is the number
    /// of times that it is drawn, Binomial(n, 1/n), and the observed one is 1: as far from that
    /// as 0 lies all but the samples that draw it once.
    #[test]
    fn the_paired_bootstrap_has_the_p_of_a_closed_form() {
        let sigmas =
            |p: f64, found: f64| (found - p).abs() / (p * (1.0 - p) / RESAMPLES as f64).sqrt();
        for n in [3, 10, 40] {
            let mut rows = vec![0.0; n];
            rows[0] = n as f64;
            let once = (1.0 - 1.0 / n as f64).powi(n as i32 - 1);
            let found = paired_bootstrap(n, mean(&rows));
            assert!(sigmas(1.0 - once, found) < 3.0, "{n}: {found}");
        }
        // Two rows that say the same but for the size, 3 and -1: the means drawn are 3, 1, 1
        // and -1, and half of them lie 1 or more from 1.
        let found = paired_bootstrap(2, mean(&[3.0, -1.0]));
        assert!(sigmas(0.5, found) < 3.0, "{found}");
    }
}
