//! Tailers: iterators over the batches of one consumer, or of several.

use std::cell::{Cell, RefCell};
use std::future::{poll_fn, ready};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use mlua::{Function, Lua, MetaMethod, MultiValue, UserData, UserDataMethods, Value};
use tailweir_pipeline::{Closer, Consumer, Delivery, NextError};

use super::config::Config;
use crate::batch::{CommitFuture, LuaBatch};
use crate::error::{fail, raise, with_causes};
use crate::kumo::{Close, Host};

/// What `kumo.jsonl.new_tailer` returns.
pub(super) struct Tailer(Rc<Stream>);

impl Tailer {
    pub(super) fn open(host: &Rc<Host>, config: Config) -> mlua::Result<Self> {
        Stream::open(host, config).map(Self)
    }
}

impl UserData for Tailer {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_method("batches", |lua, this, ()| {
            iterator(lua, &this.0, |lua, mut ready| match ready.pop() {
                Some(delivery) => lua.pack(give(lua, delivery)?),
                None => Ok(Value::Nil),
            })
        });
        add_close(methods, |this| &this.0);
    }
}

/// What `kumo.jsonl.new_multi_tailer` returns.
pub(super) struct MultiTailer(Rc<Stream>);

impl MultiTailer {
    pub(super) fn open(host: &Rc<Host>, config: Config) -> mlua::Result<Self> {
        Stream::open(host, config).map(Self)
    }
}

impl UserData for MultiTailer {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_method("batches", |lua, this, ()| {
            iterator(lua, &this.0, |lua, ready| match ready.is_empty() {
                true => Ok(Value::Nil),
                false => {
                    let batches: mlua::Result<Vec<_>> = ready.into_iter().map(|d| give(lua, d)).collect();
                    Ok(Value::Table(lua.create_sequence_from(batches?)?))
                }
            })
        });
        add_close(methods, |this| &this.0);
    }
}

fn add_close<T: 'static, M: UserDataMethods<T>>(methods: &mut M, stream: fn(&T) -> &Rc<Stream>) {
    let close = move |_: &Lua, this: &T, _: MultiValue| {
        stream(this).close();
        Ok(())
    };
    methods.add_method("close", close);
    methods.add_meta_method(MetaMethod::Close, close);
}

/// A function that returns what is ready next. It ends nothing when it is dropped: the next one goes on.
fn iterator(
    lua: &Lua,
    stream: &Rc<Stream>,
    answer: fn(&Lua, Vec<Delivery>) -> mlua::Result<Value>,
) -> mlua::Result<Function> {
    let stream = stream.clone();
    lua.create_async_function(move |lua, _: MultiValue| {
        let stream = stream.clone();
        async move {
            let ready = stream.ready().await?;
            answer(&lua, ready)
        }
    })
}

/// A delivery as the script sees it.
fn give(lua: &Lua, mut delivery: Delivery) -> mlua::Result<LuaBatch> {
    let (batch, state) = (delivery.batch().clone(), delivery.state());
    let commit = move || -> CommitFuture { Box::pin(ready(delivery.commit().map_err(|e| raise(&e)))) };
    Ok(LuaBatch::new(lua, batch, Some(Box::new(commit)))?.with_state(state))
}

/// The consumers of one tailer.
struct Stream {
    sources: RefCell<Place>,
    closed: Cell<bool>,
    closers: Vec<Closer>,
}

/// Where the consumers are.
enum Place {
    Here(Vec<Source>),
    /// A call of the iterator waits for them.
    Away,
}

/// One consumer.
struct Source {
    consumer: Consumer,
    /// What it has failed with, while a batch of another was ready; raised by the next call.
    failed: Option<NextError>,
    ended: bool,
}

impl Stream {
    fn open(host: &Host, config: Config) -> mlua::Result<Rc<Self>> {
        let consumers = tailweir_pipeline::open(config.source, config.consumers)
            .map_err(|e| fail(format!("{}: {}", config.function, with_causes(&e))))?;
        let closers = consumers.iter().map(Consumer::closer).collect();
        let source = |consumer| Source { consumer, failed: None, ended: false };
        let sources = RefCell::new(Place::Here(consumers.into_iter().map(source).collect()));
        let stream = Rc::new(Self { sources, closed: Cell::new(false), closers });
        let weak = Rc::downgrade(&stream);
        host.remember(weak);
        Ok(stream)
    }

    /// Waits for a batch, and returns it with the batches of other consumers that are ready as well: one of each at most.
    /// Empty once the tailer is closed, or once all consumers have ended.
    async fn ready(self: Rc<Self>) -> mlua::Result<Vec<Delivery>> {
        if self.closed.get() {
            return Ok(Vec::new());
        }
        // However much is ready at once: timers and signals get their turn between two batches.
        tokio::task::yield_now().await;
        let Some(mut taken) = Taken::take(&self) else {
            return match self.closed.get() {
                true => Ok(Vec::new()),
                false => Err(fail("another coroutine waits for the batches of this tailer already")),
            };
        };
        if let Some(error) = taken.failure() {
            return Err(error);
        }
        let ready = first_ready(&mut taken.sources).await;
        // A batch must not be lost for the error of another consumer: that is raised by the next call.
        match ready.is_empty() {
            true => taken.failure().map_or(Ok(ready), Err),
            false => Ok(ready),
        }
    }
}

impl Close for Stream {
    /// Ends a call that waits, and all that come. What was delivered can be committed still.
    fn close(&self) {
        self.closed.set(true);
        self.closers.iter().for_each(Closer::close);
        // Consumers that are away are dropped by the call that waits for them.
        drop(self.sources.replace(Place::Away));
    }
}

/// The consumers while a call waits for them. They are put back when it ends, however it ends.
struct Taken {
    stream: Rc<Stream>,
    sources: Vec<Source>,
}

impl Taken {
    fn take(stream: &Rc<Stream>) -> Option<Self> {
        match stream.sources.replace(Place::Away) {
            Place::Here(sources) => Some(Self { stream: stream.clone(), sources }),
            Place::Away => None,
        }
    }

    /// The error of a consumer that has failed. It is tried again from then on.
    fn failure(&mut self) -> Option<mlua::Error> {
        let of_several = self.sources.len() > 1;
        let (consumer, error) =
            self.sources.iter_mut().find_map(|source| Some((&source.consumer, source.failed.take()?)))?;
        Some(explain(&error, of_several.then(|| consumer.name())))
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if !self.stream.closed.get() {
            self.stream.sources.replace(Place::Here(std::mem::take(&mut self.sources)));
        }
    }
}

/// Waits until a consumer has a batch, has failed, or all have ended; returns the batches that are ready by then.
async fn first_ready(sources: &mut [Source]) -> Vec<Delivery> {
    let mut ready = Vec::new();
    let mut waiting: Vec<_> = sources.iter_mut().filter(|s| !s.ended).map(Source::wait).collect();
    poll_fn(|cx| {
        let mut failed = false;
        waiting.retain_mut(|wait| match wait.as_mut().poll(cx) {
            Poll::Ready(Next::Batch(delivery)) => {
                ready.push(delivery);
                false
            }
            Poll::Ready(Next::Failed) => {
                failed = true;
                false
            }
            Poll::Ready(Next::Ended) => false,
            Poll::Pending => true,
        });
        match ready.is_empty() && !failed && !waiting.is_empty() {
            true => Poll::Pending,
            false => Poll::Ready(()),
        }
    })
    .await;
    drop(waiting);
    ready
}

/// The error of a consumer, for the script; `name` says whose it is where there are several.
fn explain(error: &NextError, name: Option<&str>) -> mlua::Error {
    let whose = name.map_or_else(String::new, |name| format!("consumer `{name}`: "));
    let NextError::Filter { filter, position, source } = error else {
        return fail(format!("{whose}{}", with_causes(error)));
    };
    let cause = with_causes(&**source);
    let hint = match cause.contains("attempt to yield") {
        true => "a filter must answer at once: it can't sleep, send requests or yield\n",
        false => "",
    };
    fail(format!("{whose}{filter} failed at {position}: {hint}{cause}"))
}

/// What became of waiting for a consumer.
enum Next {
    Batch(Delivery),
    Failed,
    Ended,
}

impl Source {
    fn wait(&mut self) -> Pin<Box<dyn Future<Output = Next> + '_>> {
        Box::pin(async move {
            match self.consumer.next().await {
                Ok(Some(delivery)) => Next::Batch(delivery),
                Ok(None) => {
                    self.ended = true;
                    Next::Ended
                }
                Err(error) => {
                    self.failed = Some(error);
                    Next::Failed
                }
            }
        })
    }
}
