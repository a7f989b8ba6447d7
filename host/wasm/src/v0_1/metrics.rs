//! The metrics that plug-ins have of their own, as they see them.

use tailweir_core::{MetricKind, Registration};

use super::measured::tailweir::plugin::metrics::{Host, Label};
use crate::state::State;

impl State {
    fn register(
        &mut self,
        kind: MetricKind,
        name: &str,
        help: &str,
        labels: Vec<Label>,
        bounds: &[f64],
    ) -> u32 {
        let labels: Vec<_> = labels.into_iter().map(|Label { name, value }| (name, value)).collect();
        self.metrics.register(Registration { kind, name, help, labels: &labels, bounds })
    }
}

impl Host for State {
    fn counter(&mut self, name: String, help: String, labels: Vec<Label>) -> wasmtime::Result<u32> {
        Ok(self.register(MetricKind::Counter, &name, &help, labels, &[]))
    }

    fn gauge(&mut self, name: String, help: String, labels: Vec<Label>) -> wasmtime::Result<u32> {
        Ok(self.register(MetricKind::Gauge, &name, &help, labels, &[]))
    }

    fn histogram(
        &mut self,
        name: String,
        help: String,
        labels: Vec<Label>,
        bounds: Vec<f64>,
    ) -> wasmtime::Result<u32> {
        Ok(self.register(MetricKind::Histogram, &name, &help, labels, &bounds))
    }

    fn add(&mut self, counter: u32, amount: u64) -> wasmtime::Result<()> {
        self.metrics.change(counter, |series| series.add(amount));
        Ok(())
    }

    fn set(&mut self, gauge: u32, value: f64) -> wasmtime::Result<()> {
        self.metrics.change(gauge, |series| series.set(value));
        Ok(())
    }

    fn observe(&mut self, histogram: u32, values: Vec<f64>) -> wasmtime::Result<()> {
        self.metrics.change(histogram, |series| series.observe(&values));
        Ok(())
    }
}
