//! Whatever stands in a pipeline file: it is refused with a message that names the file and a line of it, or it can be used.
#![allow(unreachable_pub, reason = "tests and fuzz targets take this file in as a module of their own")]

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use tailweir::config::parse;

/// Reads `text` as a pipeline file.
///
/// # Panics
/// If a message lacks what it must name, or what was accepted can't be used.
pub fn check(text: &str) {
    let pipeline = match parse(Path::new("p.toml"), text) {
        Ok(pipeline) => pipeline,
        Err(error) => {
            let message = error.to_string();
            let rest = message.strip_prefix("p.toml:").expect("the file is named");
            if let Some(line) = error.line() {
                assert!((1..=text.matches('\n').count() + 1).contains(&line), "{message}");
                assert!(rest.starts_with(&format!("{line}: ")), "{message}");
            }
            let said = rest.trim_start_matches([':', ' ']).trim_start_matches(|c: char| c.is_ascii_digit());
            assert!(said.trim_matches([':', ' ']).len() > 3, "{message:?} says nothing");
            return;
        }
    };
    let plans = pipeline.plans().expect("what was accepted can be set up");
    assert!(!plans.is_empty(), "there is a consumer");
    let (mut names, mut checkpoints) = (HashSet::new(), HashSet::new());
    for (options, policy) in plans {
        assert!(options.max_batch_size > 0 && options.max_batch_bytes > 0);
        assert!(!options.max_batch_latency.is_zero());
        let checkpoint = options.checkpoint.expect("each consumer has one");
        assert!(checkpoints.insert(checkpoint.name.clone()), "{:?} belongs to two", checkpoint.name);
        assert!(names.insert(options.name.clone()), "two are called {}", options.name);
        for attempt in [1, 2, 1000, u32::MAX] {
            for random in [0.0, 0.5, 1.0] {
                let wait = policy.backoff.after(attempt, random);
                let most = policy.backoff.max.saturating_add(Duration::from_secs(1));
                assert!(
                    wait <= most || wait.as_secs_f64() <= most.as_secs_f64() * 1.001,
                    "{wait:?} of {most:?}"
                );
            }
        }
    }
    assert!(format!("{pipeline:?}").starts_with("Pipeline"));
}
