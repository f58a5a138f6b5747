//! Requests that come and go, as many at once as the context has sequences.
//!
//! Every step decodes one batch. Sequences that only need their last token come first; what
//! room is left is shared evenly by prompts, so that neither a long one holds up the others nor
//! many short ones hold up a long one. Requests begin in the order in which they came.

use std::collections::{HashMap, VecDeque};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Weak};

use jola_edit::EditSet;

use super::cache::{prepare, Held, Under};
use super::request::{EditedTokens, End, Event, Request, Sink};
use super::text::AnswerText;
use crate::context::{common, Batch, Context};
use crate::hook::LoadedEdits;
use crate::model::{Model, Token};
use crate::sampler::Sampler;
use crate::Error;

/// Tokens in common for which a request waits until another's prompt is decoded.
const WORTH_WAITING: usize = 16;

/// A request under way, or waiting.
struct Job<'a> {
    request: Request,
    /// The prompt, and what was chosen behind it.
    tokens: Vec<Token>,
    sampler: Sampler,
    text: AnswerText,
    sink: Sink<'a>,
    /// Its logits were no numbers, by its own fault or by that of one beside it.
    suspect: bool,
    /// Index in the batch of the token whose logits choose the next one.
    output: Option<usize>,
    /// Number of its admission.
    admitted: u64,
}

impl Job<'_> {
    fn n_generated(&self) -> usize {
        self.tokens.len() - self.request.prompt.len()
    }

    fn end(mut self, end: End) {
        let text = self.text.finish();
        (self.sink)(Event::End { end, text });
    }

    fn fail(mut self, error: Error) {
        (self.sink)(Event::Failed(error));
    }
}

/// Continues any number of prompts in a context, each with edits of its own or without.
pub struct Scheduler<'a> {
    context: &'a mut Context,
    model: Model,
    /// What each sequence holds, also when no request has it.
    held: Vec<Held>,
    running: Vec<Option<Job<'a>>>,
    waiting: VecDeque<Job<'a>>,
    loaded: HashMap<*const EditSet, (Weak<EditSet>, LoadedEdits)>,
    n_admitted: u64,
    /// The context was full: nothing begins before something ends.
    full: bool,
}

impl std::fmt::Debug for Scheduler<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scheduler")
            .field("context", &self.context)
            .field("running", &self.running().count())
            .field("waiting", &self.waiting.len())
            .finish_non_exhaustive()
    }
}

impl<'a> Scheduler<'a> {
    /// Takes over a context, and empties it.
    pub fn new(context: &'a mut Context) -> Self {
        context.clear();
        let sequences = context.n_seq_max();
        for sequence in 0..sequences {
            // The context has the sequence.
            let _ = context.reset_edits_of(sequence);
        }
        Self {
            model: context.model().clone(),
            context,
            held: (0..sequences).map(|_| Held::nothing()).collect(),
            running: (0..sequences).map(|_| None).collect(),
            waiting: VecDeque::new(),
            loaded: HashMap::new(),
            n_admitted: 0,
            full: false,
        }
    }

    /// Takes a request; `sink` is told what becomes of it, during [`Self::step`].
    pub fn submit(&mut self, request: Request, sink: Sink<'a>) {
        self.waiting.push_back(Job {
            tokens: request.prompt.clone(),
            sampler: Sampler::new(&request.sampling),
            text: AnswerText::new(&request.stop),
            request,
            sink,
            suspect: false,
            output: None,
            admitted: 0,
        });
    }

    /// Whether nothing is left to do.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running().next().is_none()
    }

    fn running(&self) -> impl Iterator<Item = &Job<'a>> {
        self.running.iter().flatten()
    }

    /// Begins what can begin, decodes one batch, and chooses a token wherever one is due. What
    /// is wrong with a request is told to its sink and ends that one alone.
    ///
    /// # Errors
    /// What llama.cpp cannot go on after: [`Error::Exception`] and [`Error::Decode`]. All
    /// requests end then.
    pub fn step(&mut self) -> Result<(), Error> {
        self.drop_cancelled();
        self.admit();
        let batch = self.next_batch();
        if batch.is_empty() {
            return Ok(());
        }
        match self.context.decode_unchecked(&batch) {
            Ok(()) => self.advance(&batch),
            Err(Error::ContextFull { needed, n_ctx }) => {
                self.make_space(needed, n_ctx);
                Ok(())
            }
            Err(error) => {
                let running = self.running.iter_mut().filter_map(Option::take);
                for job in running.chain(self.waiting.drain(..)) {
                    job.fail(Error::Broken);
                }
                Err(error)
            }
        }
    }

    fn drop_cancelled(&mut self) {
        let cancelled = |job: &Job| job.request.cancel.is_cancelled();
        for slot in &mut self.running {
            if slot.as_ref().is_some_and(cancelled) {
                self.full = false;
                slot.take().expect("a job").end(End::Cancelled);
            }
        }
        for _ in 0..self.waiting.len() {
            let job = self.waiting.pop_front().expect("as many as counted");
            match cancelled(&job) {
                true => job.end(End::Cancelled),
                false => self.waiting.push_back(job),
            }
        }
    }

    /// Begins waiting requests, in their order, as long as there are sequences for them.
    fn admit(&mut self) {
        while let Some(job) = self.waiting.front() {
            let busy = self.running().next().is_some();
            let alone = job.suspect || self.running().any(|job| job.suspect);
            let free = self.running.iter().any(Option::is_none);
            if self.full || !free || (alone && busy) {
                return;
            }
            match self.refusal(job) {
                None => (),
                Some(refused) => {
                    let job = self
                        .waiting
                        .pop_front()
                        .expect("the job that was looked at");
                    match refused {
                        Ok(end) => job.end(end),
                        Err(error) => job.fail(error),
                    }
                    continue;
                }
            }
            let Request {
                edits,
                edited,
                prompt,
                ..
            } = &job.request;
            let (edited, n_prompt) = (*edited, prompt.len());
            let under = self.under(edits.clone(), edited, n_prompt);
            let begun = under.and_then(|under| self.begin(&under));
            match begun {
                Ok(true) => (),
                Ok(false) => return,
                Err(error) => {
                    let job = self
                        .waiting
                        .pop_front()
                        .expect("the job that was looked at");
                    job.fail(error);
                }
            }
        }
    }

    /// What ends a request before it begins.
    fn refusal(&self, job: &Job) -> Option<Result<End, Error>> {
        let n_ctx = self.context.n_ctx();
        let tokens = &job.tokens;
        if tokens.is_empty() {
            return Some(Err(Error::NoPrompt));
        }
        if let Err(error) = tokens.iter().try_for_each(|t| self.model.check_token(*t)) {
            return Some(Err(error));
        }
        if tokens.len() >= n_ctx && job.n_generated() == 0 {
            let needed = tokens.len() + 1;
            return Some(Err(Error::ContextFull { needed, n_ctx }));
        }
        (job.request.n_predict == 0).then_some(Ok(End::Length))
    }

    /// The edits of a request with a prompt of that length, loaded.
    fn under(
        &mut self,
        edits: Option<Arc<EditSet>>,
        edited: EditedTokens,
        n_prompt: usize,
    ) -> Result<Under, Error> {
        self.loaded.retain(|_, (set, _)| set.strong_count() > 0);
        let positions = edited.positions(n_prompt);
        let Some(edits) = &edits else {
            if edited == EditedTokens::All {
                return Ok(Under::context());
            }
            let own = self.context.edits();
            if own.is_empty() {
                return Ok(Under::context());
            }
            return Ok(Under {
                edits: Some(self.context.load_edits(&own)?),
                positions,
            });
        };
        let key = Arc::as_ptr(edits);
        let loaded = match self.loaded.get(&key) {
            Some((_, loaded)) => loaded.clone(),
            None => {
                let loaded = self.context.load_edits(edits)?;
                self.loaded
                    .insert(key, (Arc::downgrade(edits), loaded.clone()));
                loaded
            }
        };
        Ok(Under {
            edits: Some(loaded),
            positions,
        })
    }

    /// Gives the first that waits a sequence, and what another holds of its beginning. False
    /// if it had better wait for that.
    fn begin(&mut self, under: &Under) -> Result<bool, Error> {
        let tokens = &self.waiting[0].tokens;
        let free = |sequence: &usize| self.running[*sequence].is_none();
        let recurrent = self.model.is_recurrent();
        let usable = |sequence: usize| {
            let held = &self.held[sequence];
            let usable = held.usable(tokens, under);
            // Their sequences neither part from each other nor go back.
            match recurrent && (usable < held.tokens.len() || !free(&sequence)) {
                true => 0,
                false => usable,
            }
        };
        let sequences = 0..self.held.len();
        let (from, len) = sequences
            .clone()
            .map(|sequence| (sequence, usable(sequence)))
            .max_by_key(|(sequence, usable)| (*usable, free(sequence)))
            .expect("a context has a sequence");
        let to_come = |sequence: &usize| {
            let job = self.running[*sequence].as_ref()?;
            let same = !recurrent && self.held[*sequence].is_under(under);
            same.then(|| common(&job.tokens, tokens))
        };
        let to_come = sequences.clone().filter_map(|s| to_come(&s)).max();
        if to_come.is_some_and(|to_come| to_come >= len + WORTH_WAITING) {
            return Ok(false);
        }
        let to = match len > 0 && free(&from) {
            true => from,
            // The one whose loss matters least.
            false => sequences
                .filter(free)
                .min_by_key(|sequence| self.held[*sequence].tokens.len())
                .expect("a free sequence"),
        };
        prepare(self.context, &mut self.held, to, from, len, under)?;
        let mut job = self
            .waiting
            .pop_front()
            .expect("the job that was looked at");
        self.n_admitted += 1;
        job.admitted = self.n_admitted;
        self.running[to] = Some(job);
        Ok(true)
    }

    /// The next tokens of all requests that fit a batch.
    fn next_batch(&mut self) -> Batch {
        let pending = |sequence: usize| {
            let job = self.running[sequence].as_ref()?;
            Some((
                job.tokens.len() - self.held[sequence].tokens.len(),
                sequence,
            ))
        };
        let mut order: Vec<(usize, usize)> = (0..self.held.len()).filter_map(pending).collect();
        order.sort_unstable();
        let mut batch = Batch::new();
        let n_batch = self.context.n_batch();
        let mut others = order.len();
        for (pending, sequence) in order {
            let share = (n_batch - batch.len()) / others;
            others -= 1;
            let Some(job) = &mut self.running[sequence] else {
                continue;
            };
            job.output = None;
            let begin = self.held[sequence].tokens.len();
            let n = pending.min(share.max(1)).min(n_batch - batch.len());
            for position in begin..begin + n {
                let last = position + 1 == job.tokens.len();
                if last {
                    job.output = Some(batch.len());
                }
                batch.push(job.tokens[position], position, sequence, last);
            }
        }
        batch
    }

    /// Notes what was decoded, and chooses tokens.
    fn advance(&mut self, batch: &Batch) -> Result<(), Error> {
        for (token, sequence) in batch.singles() {
            self.held[sequence].tokens.push(token);
        }
        let broken: Vec<usize> = (0..self.running.len())
            .filter(|sequence| {
                let output = self.running[*sequence].as_ref().and_then(|job| job.output);
                output.is_some_and(|index| self.context.check_logits(index, 0).is_err())
            })
            .collect();
        if !broken.is_empty() {
            self.isolate(&broken);
            return Ok(());
        }
        for sequence in 0..self.running.len() {
            self.choose(sequence)?;
        }
        Ok(())
    }

    /// Chooses the next token of a sequence, if one is due.
    fn choose(&mut self, sequence: usize) -> Result<(), Error> {
        let Some(job) = &mut self.running[sequence] else {
            return Ok(());
        };
        let Some(index) = job.output.take() else {
            return Ok(());
        };
        let token = job.sampler.sample(self.context, index as i32)?;
        let end = if self.model.is_eog(token) {
            Some(End::Model)
        } else {
            // The sampler chooses from the vocabulary: every token has a piece.
            let piece = self.model.token_to_piece(token).unwrap_or_default();
            let text = job.text.push(&piece);
            job.tokens.push(token);
            if !(job.sink)(Event::Token { token, text }) {
                Some(End::Cancelled)
            } else if job.text.is_stopped() {
                Some(End::Stop)
            } else if job.n_generated() == job.request.n_predict {
                Some(End::Length)
            } else if job.tokens.len() > self.context.n_ctx() {
                Some(End::ContextFull)
            } else {
                None
            }
        };
        if let Some(end) = end {
            self.full = false;
            self.running[sequence].take().expect("a job").end(end);
        }
        Ok(())
    }

    /// There are no cells for the batch. Forgets what no request needs; if all is needed, the
    /// request that began last waits until another has ended, and then computes again what it
    /// had. The last one left ends.
    fn make_space(&mut self, needed: usize, n_ctx: usize) {
        let mut idle = false;
        for sequence in 0..self.held.len() {
            if self.running[sequence].is_none() && !self.held[sequence].tokens.is_empty() {
                self.forget(sequence);
                idle = true;
            }
        }
        if idle {
            return;
        }
        let running = (0..self.running.len()).filter(|s| self.running[*s].is_some());
        let age = |sequence: &usize| self.running[*sequence].as_ref().map_or(0, |j| j.admitted);
        let Some(last) = running.max_by_key(age) else {
            return;
        };
        let job = self.running[last].take().expect("a running job");
        self.forget(last);
        if self.running().next().is_some() {
            self.waiting.push_front(job);
            self.full = true;
        } else if job.n_generated() > 0 {
            job.end(End::ContextFull);
        } else {
            job.fail(Error::ContextFull { needed, n_ctx });
        }
    }

    fn forget(&mut self, sequence: usize) {
        self.context.truncate_sequence(sequence, 0);
        self.held[sequence].tokens.clear();
    }

    /// Logits that are no numbers: they may come from the keys and values of another sequence
    /// as well. One that had them alone fails; several are tried again, each by itself.
    fn isolate(&mut self, broken: &[usize]) {
        self.context.wipe();
        let alone = broken.len() == 1;
        let mut again: Vec<Job> = Vec::new();
        for sequence in 0..self.running.len() {
            self.held[sequence].tokens.clear();
            let Some(mut job) = self.running[sequence].take() else {
                continue;
            };
            job.suspect |= broken.contains(&sequence);
            match alone && broken[0] == sequence {
                true => {
                    let position = job.tokens.len() - 1;
                    job.fail(Error::NotANumber { position });
                }
                false => again.push(job),
            }
        }
        // Those that are well go on together, before the others.
        again.sort_by_key(|job| (job.suspect, job.admitted));
        for job in again.into_iter().rev() {
            self.waiting.push_front(job);
        }
        self.full = false;
    }
}

/// A request on its way to [`serve`], with what is told of it.
pub type Submission = (Request, Box<dyn FnMut(Event) -> bool + Send>);

/// Serves requests from a channel until nobody can send any more and all are answered.
///
/// # Errors
/// As [`Scheduler::step`].
pub fn serve(context: &mut Context, submissions: Receiver<Submission>) -> Result<(), Error> {
    let mut scheduler = Scheduler::new(context);
    loop {
        if scheduler.is_idle() {
            match submissions.recv() {
                Ok((request, sink)) => scheduler.submit(request, sink),
                Err(_) => return Ok(()),
            }
        }
        while let Ok((request, sink)) = submissions.try_recv() {
            scheduler.submit(request, sink);
        }
        scheduler.step()?;
    }
}
