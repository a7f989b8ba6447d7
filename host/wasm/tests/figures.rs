//! What is counted of plug-ins, and what they count by themselves.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{batch, evaluate, granted, guest, process};
use serde_json::{Value, json};
use tailweir_core::metrics::MetricValue;
use tailweir_core::{Figures, FilterFactory, PluginKind, PluginSnapshot};
use tailweir_wasm::{Host, HostOptions, Limits};

/// A host with figures of its own.
fn host() -> (Arc<Host>, Arc<Figures>) {
    let figures = Arc::new(Figures::default());
    (Host::new(HostOptions { figures: figures.clone(), ..HostOptions::default() }).unwrap(), figures)
}

/// What is over soon in the tests that wait for it, and generous all the same: the machine may be busy.
const DEADLINE: Duration = Duration::from_millis(300);

fn limits() -> Limits {
    Limits { deadline: DEADLINE, ..Limits::default() }
}

/// What is counted after a filter with this configuration was asked about two batches, by two instances.
fn after(config: &Value) -> PluginSnapshot {
    let (host, figures) = host();
    let plugin = host.filter(&guest("hostile-filter"), config, limits()).unwrap();
    for records in [&[r#"{"n":1}"#, r#"{"n":2,"poison":true}"#][..], &[r#"{"n":3}"#]] {
        let mut filter = plugin.create().unwrap();
        evaluate(&mut *filter, &batch(records));
    }
    let [told] = &figures.snapshot()[..] else { panic!("{:?}", figures.snapshot()) };
    assert_eq!((&*told.consumer, &*told.plugin, told.kind), ("test", "hostile-filter", PluginKind::Filter));
    assert_eq!((told.calls, told.records, told.latency.count()), (2, 3, 2), "{told:?}");
    told.clone()
}

#[test]
fn filters_are_counted_however_their_calls_end() {
    let told = after(&json!({"do": "at-least", "pointer": "/n", "least": 2}));
    assert_eq!((told.kept, told.failed), (2, 0));
    // Three integers as the host hands them over.
    assert_eq!(told.bytes, 3 * 16);
    assert!(told.peak_memory >= 1 << 16 && told.computed > Duration::ZERO, "{told:?}");

    let told = after(&json!({"do": "panic-on-poison"}));
    assert_eq!((told.kept, told.failed, told.trapped, told.overrun), (1, 1, 1, 0));
    let told = after(&json!({"do": "loop-on-poison"}));
    assert_eq!((told.kept, told.failed, told.trapped, told.overrun), (1, 1, 0, 1));
    assert!(told.computed >= DEADLINE, "{told:?}");
    let told = after(&json!({"do": "fail", "reason": "no"}));
    assert_eq!((told.kept, told.failed, told.trapped, told.overrun), (0, 2, 0, 0));
    let told = after(&json!({"do": "misalign", "more": 1}));
    assert_eq!((told.kept, told.failed, told.trapped, told.overrun), (0, 2, 0, 0));
}

#[test]
fn processors_are_counted_however_their_calls_end() {
    let after = |config: &Value| {
        let (host, figures) = host();
        let plugin = host.processor(&guest("hostile-processor"), config, granted(&[]), limits()).unwrap();
        process(&mut *plugin.create(), &batch(&["1", "2", "3"]));
        figures.snapshot().remove(0)
    };
    let told = after(&json!({"do": "emit"}));
    assert_eq!((told.kind, told.calls, told.records, told.emitted), (PluginKind::Processor, 1, 3, 3));
    assert_eq!(told.bytes, 3 + 3 * 4, "the texts of the records, and where each of them ends");
    assert_eq!(after(&json!({"do": "reject", "indices": [1, 2]})).rejected, 2);
    let told = after(&json!({"do": "retry", "times": 1}));
    assert_eq!((told.retried, told.failed), (1, 0));
    let told = after(&json!({"do": "reject", "indices": [7]}));
    assert_eq!((told.rejected, told.failed, told.trapped), (0, 1, 0));
    let told = after(&json!({"do": "trap"}));
    assert_eq!((told.failed, told.trapped), (1, 1));
    let told = after(&json!({"do": "loop"}));
    assert_eq!((told.failed, told.overrun), (1, 1));
}

#[test]
fn instances_of_one_consumer_count_together_and_a_call_that_fails_undoes_nothing() {
    let told = after(&json!({"do": "mismeasure"}));
    let good = told.metrics.iter().find(|metric| metric.name == "good_total").unwrap();
    assert_eq!((&*good.help, &good.series[0].value), ("What is well made", &MetricValue::Counter(2)));
    // In two calls, however often a series is registered before it is changed.
    assert_eq!(told.metrics_left_out, 2 * 5, "{:?}", told.metrics);
}
