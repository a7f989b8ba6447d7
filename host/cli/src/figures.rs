//! What is counted of plug-ins: when it is told, how it is written, and counting for functions in Lua.

use std::sync::{Arc, Once};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Map, Value, json};
use tailweir_core::metrics::{HistogramSnapshot, MetricSnapshot, MetricValue, SeriesSnapshot};
use tailweir_core::{
    Batch, CallCost, CallFault, Failure, Figures, Filter, FilterError, Located, MetricLimits, Outcome,
    PluginFigures, PluginKind, PluginSnapshot, ProcessFuture, Processor, StateKeeper, Verdict, processor,
};
use tracing::debug;

use crate::logging::{LogEvents, TARGET};

/// How often figures are told, if there is news.
const OFTEN: Duration = Duration::from_secs(10);

/// Starts the thread that has figures told while the program runs, unless there is one.
pub(crate) fn tell_often(figures: &Arc<Figures>) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let figures = figures.clone();
        let tell = move || {
            loop {
                thread::sleep(OFTEN);
                figures.report(&LogEvents);
            }
        };
        // Without it they are told in the end.
        let _ = thread::Builder::new().name("figures".to_owned()).spawn(tell);
    });
}

/// How many series of a plug-in's own are logged at once.
const LOGGED: usize = 200;

/// Logs the figures of a plug-in.
pub(crate) fn log(figures: &PluginSnapshot) {
    if !tracing::enabled!(target: TARGET, tracing::Level::DEBUG) {
        return;
    }
    let PluginSnapshot { consumer, plugin, calls, records, kept, emitted, rejected, retried, failed, .. } =
        figures;
    let PluginSnapshot { trapped, overrun, bytes, peak_memory, metrics_left_out, .. } = figures;
    let kind = figures.kind.name();
    let computed = figures.computed.as_secs_f64();
    debug!(target: TARGET, consumer, plugin, kind, calls, records, kept, emitted, rejected, retried, failed, trapped, overrun,
        computed, bytes, peak_memory, metrics_left_out, "figures of a plug-in");
    let series: Vec<String> = figures.metrics.iter().flat_map(as_texts).collect();
    if !series.is_empty() {
        let more = series.len().saturating_sub(LOGGED);
        let shown = series[..series.len() - more].join(" ");
        debug!(target: TARGET, consumer, plugin, more, "metrics of a plug-in: {shown}");
    }
}

/// `name{label="value"} number` for each series, and for a histogram how many values there were and their sum.
pub(crate) fn as_texts(metric: &MetricSnapshot) -> Vec<String> {
    let name = &metric.name;
    let of = |series: &SeriesSnapshot| {
        let labels: Vec<String> =
            series.labels.iter().map(|(label, value)| format!("{label}={value:?}")).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        match &series.value {
            MetricValue::Counter(value) => vec![format!("{name}{labels} {value}")],
            MetricValue::Gauge(value) => vec![format!("{name}{labels} {value}")],
            MetricValue::Histogram(told) => {
                vec![
                    format!("{name}_count{labels} {}", told.count()),
                    format!("{name}_sum{labels} {}", told.sum),
                ]
            }
        }
    };
    metric.series.iter().flat_map(of).collect()
}

/// Figures as `--summary=json` tells them. The names are kept.
#[derive(Debug, Serialize)]
pub(crate) struct AsJson {
    consumer: String,
    plugin: String,
    kind: &'static str,
    calls: u64,
    records: u64,
    kept: u64,
    emitted: u64,
    rejected: u64,
    retried: u64,
    failed: u64,
    trapped: u64,
    overrun: u64,
    computed_seconds: f64,
    bytes: u64,
    peak_memory: u64,
    latency_seconds: Value,
    metrics: Vec<Value>,
    metrics_left_out: u64,
}

impl From<&PluginSnapshot> for AsJson {
    fn from(figures: &PluginSnapshot) -> Self {
        Self {
            consumer: figures.consumer.clone(),
            plugin: figures.plugin.clone(),
            kind: figures.kind.name(),
            calls: figures.calls,
            records: figures.records,
            kept: figures.kept,
            emitted: figures.emitted,
            rejected: figures.rejected,
            retried: figures.retried,
            failed: figures.failed,
            trapped: figures.trapped,
            overrun: figures.overrun,
            computed_seconds: figures.computed.as_secs_f64(),
            bytes: figures.bytes,
            peak_memory: figures.peak_memory,
            latency_seconds: histogram(&figures.latency),
            metrics: figures.metrics.iter().map(metric).collect(),
            metrics_left_out: figures.metrics_left_out,
        }
    }
}

fn metric(metric: &MetricSnapshot) -> Value {
    let series = |series: &SeriesSnapshot| {
        let labels: Map<String, Value> =
            series.labels.iter().map(|(label, value)| (label.clone(), Value::from(value.as_str()))).collect();
        let value = match &series.value {
            MetricValue::Counter(value) => json!(value),
            MetricValue::Gauge(value) => json!(value),
            MetricValue::Histogram(told) => histogram(told),
        };
        json!({ "labels": labels, "value": value })
    };
    let of: Vec<Value> = metric.series.iter().map(series).collect();
    json!({ "name": metric.name, "kind": metric.kind.name(), "help": metric.help, "series": of })
}

/// Of its buckets those that hold something: the largest value of each, `null` for the last, and how many values it holds.
fn histogram(told: &HistogramSnapshot) -> Value {
    let bounds = told.bounds.iter().map(|bound| json!(bound)).chain([Value::Null]);
    let buckets: Vec<Value> = bounds
        .zip(&told.counts)
        .filter(|(_, count)| **count > 0)
        .map(|(bound, count)| json!({ "to": bound, "count": count }))
        .collect();
    json!({ "count": told.count(), "sum": told.sum, "buckets": buckets })
}

/// A filter or processor that is not counted by its engine.
pub(crate) struct Counted<P> {
    inner: P,
    plugin: String,
    all: Arc<Figures>,
    /// Those of the consumer of the last batch.
    figures: Option<Arc<PluginFigures>>,
}

impl<P> Counted<P> {
    /// Counts what `inner` does, by this name.
    pub(crate) fn new(inner: P, plugin: String, all: &Arc<Figures>) -> Self {
        Self { inner, plugin, all: all.clone(), figures: None }
    }

    fn figures(&mut self, batch: &Batch, kind: PluginKind) -> Arc<PluginFigures> {
        match &self.figures {
            Some(figures) if figures.consumer() == batch.consumer() => figures.clone(),
            _ => {
                let figures = self.all.of(batch.consumer(), &self.plugin, kind, MetricLimits::default);
                self.figures = Some(figures.clone());
                figures
            }
        }
    }
}

fn count(figures: &PluginFigures, records: usize, began: Instant) {
    let took = began.elapsed();
    figures.called(CallCost { records, took, computed: took, ..CallCost::default() });
}

impl<F: Filter> Filter for Counted<F> {
    fn evaluate(&mut self, candidates: &Arc<Batch>) -> Result<Verdict, FilterError> {
        let (figures, began) = (self.figures(candidates, PluginKind::Filter), Instant::now());
        let answer = self.inner.evaluate(candidates);
        let asked = match &answer {
            // Those behind the record that it failed on come in another call.
            Err(FilterError { located: Located::Record, decided, .. }) => decided.len() + 1,
            _ => candidates.len(),
        };
        count(&figures, asked, began);
        match &answer {
            Ok(verdict) => figures.decided(verdict, candidates.len()),
            Err(error) => {
                // Those before the record that it failed on are used, and are not asked for again.
                figures.decided(&Verdict::Keep(error.decided.clone()), candidates.len());
                figures.failed(CallFault::Trap);
            }
        }
        answer
    }
}

impl<P: Processor> Counted<P> {
    async fn ask(
        &mut self,
        batch: &Arc<Batch>,
        state: Option<&Arc<dyn StateKeeper>>,
    ) -> Result<Outcome, Failure> {
        let (figures, began) = (self.figures(batch, PluginKind::Processor), Instant::now());
        let answer = processor::process(&mut self.inner, batch, state).await;
        count(&figures, batch.len(), began);
        figures.answered(&answer);
        if matches!(answer, Err(Failure::Crash { .. })) {
            figures.failed(CallFault::Trap);
        }
        answer
    }
}

impl<P: Processor> Processor for Counted<P> {
    fn process<'a>(&'a mut self, batch: &'a Arc<Batch>) -> ProcessFuture<'a> {
        Box::pin(self.ask(batch, None))
    }

    fn process_with_state<'a>(
        &'a mut self,
        batch: &'a Arc<Batch>,
        state: &'a Arc<dyn StateKeeper>,
    ) -> ProcessFuture<'a> {
        Box::pin(self.ask(batch, Some(state)))
    }
}
