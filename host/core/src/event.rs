//! What happened, for logs and metrics: one closed enum, sent per batch or per incident and never per record.

use std::time::Duration;

use crate::{DefectKind, PluginSnapshot, Position, SegmentName, Sums};

/// Something that an operator may want to count or read about.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// A segment was opened for reading.
    SegmentOpened {
        /// The segment.
        segment: SegmentName,
    },
    /// A sealed segment was read to its end.
    SegmentFinished {
        /// The segment.
        segment: SegmentName,
        /// Lines in it.
        lines: u64,
        /// Decompressed bytes in it.
        bytes: u64,
    },
    /// A sealed segment ended in the middle of a frame or a line, or was damaged; what could be read was delivered.
    SegmentDamaged {
        /// The segment.
        segment: SegmentName,
        /// Lines delivered before the damage.
        line: u64,
        /// What was found.
        reason: String,
    },
    /// A segment could not be read, so that none of its records is delivered from where it was read to. Sent once, until it
    /// can be read again.
    SegmentUnreadable {
        /// The segment.
        segment: SegmentName,
        /// What went wrong.
        reason: String,
        /// Whether it is tried again while reading goes on.
        tried_again: bool,
    },
    /// A file that is no segment was passed over. Sent once per file.
    ForeignFile {
        /// Its name, as it is: it may hold line breaks and sequences that a terminal obeys.
        name: String,
        /// Why it was passed over.
        reason: String,
    },
    /// A segment vanished, shrank or was replaced under its reader or its checkpoint.
    SegmentGap {
        /// The segment.
        segment: SegmentName,
        /// What was found and what happens now.
        reason: String,
    },
    /// A segment that sorts before segments already read has appeared; it is read now.
    SegmentLate {
        /// The segment.
        segment: SegmentName,
    },
    /// Segments were passed over because the newest was asked for.
    SkippedByRequest {
        /// The segment that reading starts with.
        first: SegmentName,
        /// How many older segments were passed over.
        segments: u64,
    },
    /// A line is not a record.
    Malformed {
        /// The consumer that met it.
        consumer: String,
        /// Where it is.
        position: Position,
        /// What is wrong with it.
        kind: DefectKind,
        /// What has become of it.
        fate: Fate,
    },
    /// Records held invalid UTF-8; engines see them repaired.
    Repaired {
        /// The consumer that was given them.
        consumer: String,
        /// The segment.
        segment: SegmentName,
        /// How many records of one block.
        records: u64,
    },
    /// Records went through a consumer's filter.
    Filtered {
        /// The consumer.
        consumer: String,
        /// Records looked at.
        records: u64,
        /// Records kept.
        kept: u64,
    },
    /// A batch was committed.
    Committed {
        /// The consumer.
        consumer: String,
        /// Records in it.
        records: u64,
        /// Their bytes.
        bytes: u64,
    },
    /// A record was put in quarantine. For a line that is none there is [`Malformed`](Self::Malformed) only.
    Quarantined {
        /// The consumer.
        consumer: String,
        /// Where it is.
        position: Position,
        /// Why.
        reason: String,
    },
    /// A record was rejected, and there is no quarantine to put it in.
    Rejected {
        /// The consumer.
        consumer: String,
        /// Where it is.
        position: Position,
        /// Why.
        reason: String,
    },
    /// What became of the lines of a segment does not add up: a fault of this program.
    Unbalanced {
        /// The consumer.
        consumer: String,
        /// The segment.
        segment: SegmentName,
        /// What was counted.
        sums: Sums,
        /// What is wrong with it.
        problem: String,
    },
    /// A consumer has dealt with a segment, or ends before it has. Each line that it was given of it is in the sums.
    Accounted {
        /// The consumer.
        consumer: String,
        /// Its checkpoint, if it has one.
        checkpoint: Option<String>,
        /// The segment.
        segment: SegmentName,
        /// What became of its lines since the consumer was opened.
        sums: Sums,
    },
    /// A consumer and its last batch are gone.
    Ended {
        /// The consumer.
        consumer: String,
        /// Its checkpoint, if it has one.
        checkpoint: Option<String>,
        /// What became of all lines since it was opened.
        sums: Sums,
        /// Records that held invalid UTF-8.
        repaired: u64,
        /// Records and lines dropped from the quarantine to make room: it was full.
        dropped: u64,
        /// How many times sums did not add up.
        unbalanced: u64,
    },
    /// A batch will be delivered again.
    Retried {
        /// The consumer.
        consumer: String,
        /// The batch.
        batch: String,
        /// Milliseconds until then.
        after_ms: u64,
        /// Why.
        reason: String,
    },
    /// Calls into a plug-in failed: it crashed, ran into a limit, or gave an answer that makes no sense. Sent at most once a
    /// second for each plug-in and consumer.
    PluginFailed {
        /// The plug-in.
        plugin: String,
        /// The consumer that uses it; none while it is loaded.
        consumer: Option<String>,
        /// Why the last of them failed.
        reason: String,
        /// How many there were since the last such event.
        calls: u64,
    },
    /// Requests of a plug-in were not sent, as they go where it is not granted to. Sent at most once a second for each plug-in and
    /// consumer.
    PluginRequestDenied {
        /// The plug-in.
        plugin: String,
        /// The consumer that uses it; none while it is loaded.
        consumer: Option<String>,
        /// The origin of the last of them; none if it has none that could be granted.
        origin: Option<String>,
        /// How many there were since the last such event.
        requests: u64,
    },
    /// Instances of a plug-in have taken so much memory that each was replaced by a fresh one between two calls. Sent at most
    /// once a second for each plug-in and consumer.
    PluginRecycled {
        /// The plug-in.
        plugin: String,
        /// The consumer that uses it; none while it is loaded.
        consumer: Option<String>,
        /// Bytes of memory that the last of them had.
        bytes: u64,
        /// How many there were since the last such event.
        instances: u64,
    },
    /// A plug-in has logged more than it may.
    PluginLogCut {
        /// The plug-in.
        plugin: String,
        /// The consumer that uses it; none while it is loaded.
        consumer: Option<String>,
        /// How many lines were left out.
        lines: u64,
    },
    /// A second version of a plug-in, which runs beside it without effect, has answered otherwise. Sent for a few records at
    /// most.
    ShadowDiffers {
        /// The consumer.
        consumer: String,
        /// What the plug-in is to it: `filter` or `processor`.
        role: String,
        /// The record, or the first one of a batch that was answered as a whole.
        position: Position,
        /// What the plug-in in use has answered.
        live: String,
        /// What the second version has answered.
        shadow: String,
    },
    /// How a second version of a plug-in compares with it, since the consumer was opened. Sent once a minute at most, and in
    /// the end.
    ShadowCompared {
        /// The consumer.
        consumer: String,
        /// What the plug-in is to it: `filter` or `processor`.
        role: String,
        /// The second version's file.
        file: String,
        /// Records that both have answered on.
        compared: u64,
        /// Those of them that the answers differ on.
        differing: u64,
        /// Records that the second version has failed on.
        failed: u64,
        /// Records that it was not given, as it, or its copy of the state, was behind.
        skipped: u64,
        /// How long the plug-in in use took for the records that were compared, waiting included.
        live: Duration,
        /// How long the second version took for them.
        shadow: Duration,
    },
    /// Metrics of a plug-in's own are not recorded, as they are more than it may have or make no sense. Sent once for each
    /// plug-in and reason; [`PluginFigures`](Self::PluginFigures) has the number.
    PluginMetricLeftOut {
        /// The plug-in.
        plugin: String,
        /// The consumer that uses it; none while it is loaded.
        consumer: Option<String>,
        /// Why.
        reason: String,
    },
    /// What is counted of a plug-in as it is used by one consumer, from the start of the process on. Sent every few seconds
    /// while it is called, and in the end.
    PluginFigures {
        /// All of it.
        figures: Box<PluginSnapshot>,
    },
    /// Something worth a warning that has no counter of its own.
    Warning {
        /// The whole sentence.
        message: String,
    },
}

/// What becomes of a line that is not a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is in quarantine.
    Quarantined,
    /// It is passed over.
    PassedOver,
}

/// Receives events. Implementations must be quick: they are called on the reading and delivering threads.
pub trait EventSink: Send + Sync {
    /// Takes one event.
    fn emit(&self, event: Event);
}

/// Forgets every event.
impl EventSink for () {
    fn emit(&self, _: Event) {}
}
