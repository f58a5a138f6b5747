//! Requests that come while others are under way: each is answered as it would be alone.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{mpsc, Arc};

use jola_edit::{DenseEdit, EditSet};
use llama_jola::generate::{serve, EditedTokens, End, Event, Request, Scheduler, Sink, Submission};
use llama_jola::sampler::SamplerParams;
use llama_jola::{CacheType, Context, ContextParams, Error, Model, ModelParams, Token};
use testkit::tiny::{forms, VOCABULARY};
use testkit::{Folder, Random};

/// Heads times head width.
const WIDTH: usize = 64;

/// A small random model, which writes until it is stopped.
fn model() -> Model {
    let folder = Folder::new();
    let named = |form: &forms::Form| form.tiny.architecture == "command-r";
    let form = forms::all().into_iter().find(named).unwrap();
    let path = form.tiny.write(folder.root(), "model");
    Model::load(path, &ModelParams::default()).unwrap()
}

/// Tokens of which different seeds have different ones.
fn tokens(seed: usize, n: usize) -> Vec<Token> {
    let mut random = Random::new(seed as u64);
    (0..n)
        .map(|_| 4 + random.below(VOCABULARY - 4) as Token)
        .collect()
}

/// In 32-bit floats, so that other batches do not round another way.
fn params() -> ContextParams {
    ContextParams {
        n_ctx: 192,
        n_seq_max: 4,
        n_threads: 1,
        type_k: CacheType::F32,
        type_v: CacheType::F32,
        ..ContextParams::default()
    }
}

fn edits(seed: u64) -> Arc<EditSet> {
    let mut random = Random::new(seed);
    let layers = (0..2).map(|layer| {
        let row = (0..WIDTH).map(|_| random.signed()).collect();
        (layer, DenseEdit::new(None, Some(row)).unwrap())
    });
    Arc::new(EditSet {
        layers: layers.collect(),
    })
}

/// What is heard of a request.
#[derive(Default)]
struct Heard {
    tokens: Vec<Token>,
    text: String,
    end: Option<Result<End, Error>>,
    /// Steps until the first token, and until the end.
    first: usize,
    last: usize,
}

/// A scheduler with what is heard of its requests.
struct Office<'a> {
    scheduler: Scheduler<'a>,
    heard: Vec<Rc<RefCell<Heard>>>,
    steps: usize,
}

impl<'a> Office<'a> {
    fn new(context: &'a mut Context) -> Self {
        Self {
            scheduler: Scheduler::new(context),
            heard: Vec::new(),
            steps: 0,
        }
    }

    fn submit(&mut self, request: Request) -> Rc<RefCell<Heard>> {
        let heard = Rc::new(RefCell::new(Heard::default()));
        let told = heard.clone();
        let sink: Sink = Box::new(move |event| {
            let heard = &mut *told.borrow_mut();
            match event {
                Event::Token { token, text } => {
                    heard.tokens.push(token);
                    heard.text += &text;
                }
                Event::End { end, text } => {
                    heard.text += &text;
                    assert!(heard.end.replace(Ok(end)).is_none());
                }
                Event::Failed(error) => assert!(heard.end.replace(Err(error)).is_none()),
            }
            true
        });
        self.scheduler.submit(request, sink);
        self.heard.push(heard.clone());
        heard
    }

    fn step(&mut self) {
        self.scheduler.step().unwrap();
        self.steps += 1;
        assert!(self.steps < 2000, "no end");
        for heard in &self.heard {
            let heard = &mut *heard.borrow_mut();
            if heard.first == 0 && !heard.tokens.is_empty() {
                heard.first = self.steps;
            }
            if heard.last == 0 && heard.end.is_some() {
                heard.last = self.steps;
            }
        }
    }

    fn finish(&mut self) {
        while !self.scheduler.is_idle() {
            self.step();
        }
    }
}

/// Prompts 0 and 3 begin alike.
fn prompt(i: usize) -> Vec<Token> {
    let lengths = [24, 9, 3, 24];
    let mut prompt = tokens(i % 3, lengths[i]);
    if i == 3 {
        prompt[20..].copy_from_slice(&tokens(3, 4));
    }
    prompt
}

fn request(i: usize, n_predict: usize) -> Request {
    Request {
        n_predict,
        ..Request::new(prompt(i))
    }
}

/// What a request is answered when it has the model to itself.
fn alone(model: &Model, request: &Request) -> Vec<Token> {
    let mut context = Context::new(model, &params()).unwrap();
    let mut office = Office::new(&mut context);
    let heard = office.submit(request.clone());
    office.finish();
    let tokens = heard.borrow().tokens.clone();
    tokens
}

#[test]
fn requests_join_and_leave_and_are_answered_as_alone() {
    let model = model();
    let sets = [None, Some(edits(1)), Some(edits(2)), Some(edits(3))];
    let requests: Vec<Request> = (0..14)
        .map(|i| Request {
            edits: sets[(i * 7 / 3) % 4].clone(),
            edited: match i % 5 {
                3 => EditedTokens::Prompt,
                4 => EditedTokens::Generated,
                _ => EditedTokens::All,
            },
            ..request(i % 4, 3 + i % 6)
        })
        .collect();
    let mut context = Context::new(&model, &params()).unwrap();
    let mut office = Office::new(&mut context);
    let mut heard = Vec::new();
    for request in &requests {
        heard.push(office.submit(request.clone()));
        office.step();
    }
    office.finish();
    for (i, (heard, request)) in heard.iter().zip(&requests).enumerate() {
        let heard = heard.borrow();
        assert_eq!(heard.tokens, alone(&model, request), "request {i}");
        assert!(matches!(heard.end, Some(Ok(End::Length | End::Model))));
        assert_eq!(heard.text, model.detokenize(&heard.tokens).unwrap());
    }
    // Edits and their positions make a difference.
    let answers: Vec<_> = (0..4).map(|i| heard[i].borrow().tokens.clone()).collect();
    assert!(answers[0] != answers[3]);
}

/// A long prompt neither holds up short ones nor is held up by them.
#[test]
fn prompts_share_a_batch_evenly() {
    let model = model();
    let params = ContextParams {
        n_batch: 32,
        n_seq_max: 3,
        ..params()
    };
    let mut context = Context::new(&model, &params).unwrap();
    let mut office = Office::new(&mut context);
    let long = tokens(99, 180);
    let mut shorts = Vec::new();
    let long = office.submit(Request {
        n_predict: 2,
        ..Request::new(long)
    });
    for i in 0..20 {
        shorts.push(office.submit(Request {
            n_predict: 1,
            ..Request::new(tokens(i, 24))
        }));
    }
    office.finish();
    // Of 32 tokens a step, a third at least is the long one's.
    let first = long.borrow().first;
    assert!(
        first <= 180_usize.div_ceil(32 / 3) + 1,
        "after {first} steps"
    );
    assert!(shorts[0].borrow().first <= 3);
    let ends: Vec<usize> = shorts.iter().map(|heard| heard.borrow().last).collect();
    assert!(ends.is_sorted(), "they began in order: {ends:?}");
}

/// There are cells for two and a half of the four that want to go on.
#[test]
fn a_full_context_makes_some_wait() {
    let model = model();
    let params = ContextParams {
        n_cells: 256,
        ..params()
    };
    let mut context = Context::new(&model, &params).unwrap();
    let requests: Vec<Request> = (0..4)
        .map(|i| Request {
            n_predict: 40,
            edits: Some(edits(i as u64)),
            ..Request::new(tokens(i, 70))
        })
        .collect();
    let mut office = Office::new(&mut context);
    let heard: Vec<_> = requests.iter().map(|r| office.submit(r.clone())).collect();
    office.finish();
    for (heard, request) in heard.iter().zip(&requests) {
        assert_eq!(heard.borrow().tokens, alone(&model, request));
        assert!(matches!(heard.borrow().end, Some(Ok(_))));
    }
    // One that goes on until its own sequence is full.
    let tokens = tokens(7, 180);
    let endless = office.submit(Request {
        n_predict: usize::MAX,
        ..Request::new(tokens.clone())
    });
    let too_long = office.submit(Request::new([tokens, vec![5; 12]].concat()));
    office.finish();
    assert!(matches!(
        endless.borrow().end,
        Some(Ok(End::ContextFull | End::Model))
    ));
    assert!(matches!(
        too_long.borrow().end,
        Some(Err(Error::ContextFull { needed: 193, .. }))
    ));
}

#[test]
fn a_request_ends_when_nobody_wants_it_or_a_stop_text_comes() {
    let model = model();
    let mut context = Context::new(&model, &params()).unwrap();
    let whole = request(0, 12);
    let text = model.detokenize(&alone(&model, &whole)).unwrap();
    let mut office = Office::new(&mut context);
    // From the middle of one token to that of another.
    let stop: String = text.chars().skip(5).take(6).collect();
    let stopped = office.submit(Request {
        stop: vec!["never said".into(), stop.clone()],
        ..whole.clone()
    });
    let cancelled = request(1, 100);
    let cancel = cancelled.cancel.clone();
    let cancelled = office.submit(cancelled);
    let waiting = [(); 4].map(|()| request(2, 4));
    waiting[3].cancel.cancel();
    let waiting = waiting.map(|request| office.submit(request));
    for _ in 0..4 {
        office.step();
    }
    cancel.cancel();
    office.finish();
    assert_eq!(stopped.borrow().text, text[..text.find(&stop).unwrap()]);
    assert!(matches!(stopped.borrow().end, Some(Ok(End::Stop))));
    let said = cancelled.borrow().tokens.len();
    assert!((1..=4).contains(&said), "{said}");
    assert!(matches!(cancelled.borrow().end, Some(Ok(End::Cancelled))));
    for (i, heard) in waiting.iter().enumerate() {
        let expected = if i == 3 { End::Cancelled } else { End::Length };
        assert_eq!(
            heard.borrow().end.as_ref().unwrap().as_ref().unwrap(),
            &expected
        );
    }
}

/// What is wrong with a request is its own affair.
#[test]
fn bad_requests_fail_alone() {
    let model = model();
    let mut context = Context::new(&model, &params()).unwrap();
    let good = Request {
        edits: Some(edits(1)),
        ..request(0, 8)
    };
    let with = |layer: u32, value: f32, width: usize| {
        let edit = DenseEdit::new(None, Some(vec![value; width])).unwrap();
        Request {
            edits: Some(Arc::new(EditSet {
                layers: [(layer, edit)].into(),
            })),
            ..request(1, 8)
        }
    };
    let expected = alone(&model, &good);
    let mut office = Office::new(&mut context);
    let first = office.submit(good.clone());
    office.step();
    let overflow = office.submit(with(1, 3e38, WIDTH));
    let wide = office.submit(with(1, 0.1, WIDTH + 64));
    let deep = office.submit(with(40, 0.1, WIDTH));
    let empty = office.submit(Request::new(Vec::new()));
    let unknown = office.submit(Request::new(vec![i32::MAX]));
    let nothing = office.submit(request(2, 0));
    let second = office.submit(good);
    office.finish();
    assert_eq!(first.borrow().tokens, expected);
    assert_eq!(second.borrow().tokens, expected);
    let error = |heard: &Rc<RefCell<Heard>>| match heard.borrow().end.as_ref() {
        Some(Err(error)) => error.to_string(),
        other => panic!("{other:?}"),
    };
    assert!(error(&overflow).contains("not finite"));
    assert!(error(&wide).contains("64 wide"));
    assert!(error(&deep).contains("[40]"));
    assert!(error(&empty).contains("empty"));
    assert!(error(&unknown).contains("outside the vocabulary"));
    assert!(matches!(nothing.borrow().end, Some(Ok(End::Length))));
}

/// A thread serves, others ask; one of them leaves.
#[test]
fn a_channel_is_served_from_another_thread() {
    let model = model();
    let (submit, submissions) = mpsc::channel::<Submission>();
    let set = edits(1);
    let asked = |i: usize| Request {
        edits: (i % 2 == 1).then(|| set.clone()),
        sampling: SamplerParams {
            temp: (i % 3) as f32 * 0.5,
            seed: i as u32,
            ..SamplerParams::default()
        },
        ..request(i % 4, 6)
    };
    let expected: Vec<Vec<Token>> = (0..8).map(|i| alone(&model, &asked(i))).collect();
    std::thread::scope(|scope| {
        let model = &model;
        scope.spawn(move || {
            let mut context = Context::new(model, &params()).unwrap();
            serve(&mut context, submissions).unwrap();
            assert_eq!(context.n_loaded_edits(), 1);
        });
        let answers: Vec<_> = (0..8)
            .map(|i| {
                let (submit, asked) = (submit.clone(), &asked);
                scope.spawn(move || {
                    let (told, events) = mpsc::channel();
                    let sink = Box::new(move |event| told.send(event).is_ok());
                    submit.send((asked(i), sink)).unwrap();
                    let mut tokens = Vec::new();
                    for event in events {
                        match event {
                            Event::Token { token, .. } => tokens.push(token),
                            Event::End { .. } => return tokens,
                            Event::Failed(error) => panic!("{error}"),
                        }
                        if i == 5 {
                            return tokens;
                        }
                    }
                    panic!("no end")
                })
            })
            .collect();
        drop(submit);
        for (i, answer) in answers.into_iter().enumerate() {
            let answer = answer.join().unwrap();
            let n = if i == 5 { 1 } else { expected[i].len() };
            assert_eq!(answer, expected[i][..n], "request {i}");
        }
    });
}
