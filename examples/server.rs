//! Serves a base model with any number of edits over HTTP, as OpenAI's API has it: each request
//! names its own edits, and all are computed in the same batches. An example to begin from: who
//! wants a whole server has llama-server (`docs/serve.md`).
//!
//! cargo run --release --example server -- BASE.gguf FOLDER-OF-EDITS [ADDRESS]
//!
//! curl localhost:8080/v1/completions -d '{"prompt": "Message: …\nTeam:", "jola": "routing"}'
//! curl localhost:8080/v1/chat/completions -d '{"messages": [{"role": "user", "content": "Hi"}],
//!     "jola": [{"id": "formal", "scale": 0.5}, {"id": "brief"}], "stream": true}'

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::env;
use std::error::Error;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{mpsc, Arc};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::sse::{self, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use llama_jola::chat::{ChatTemplate, Message, Prompt};
use llama_jola::generate::{serve, Cancel, End, Event, Request, Submission};
use llama_jola::sampler::SamplerParams;
use llama_jola::{Context, ContextParams, EditSet, Model, ModelParams, Sidecar};
use serde::Deserialize;
use serde_json::{json, Value};
use tokio::sync::mpsc::{unbounded_channel, UnboundedReceiver};
use tokio_stream::{wrappers::UnboundedReceiverStream, StreamExt as _};

/// Requests that are computed at once; others wait.
const PARALLEL: u32 = 32;

/// What all requests share.
struct Server {
    model: Model,
    template: Option<ChatTemplate>,
    sidecars: BTreeMap<String, Sidecar>,
    /// Each sidecar by itself at full strength, kept in the device's memory once it was used.
    alone: BTreeMap<String, Arc<EditSet>>,
    submit: mpsc::Sender<Submission>,
    next_id: AtomicU64,
}

#[derive(Deserialize)]
struct Body {
    prompt: Option<String>,
    messages: Option<Vec<Turn>>,
    max_tokens: Option<usize>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    seed: Option<u32>,
    stop: Option<Stop>,
    #[serde(default)]
    stream: bool,
    /// `"name"`, or `[{"id": "name", "scale": 0.5}, …]`, applied in this order.
    jola: Option<Value>,
}

#[derive(Deserialize)]
struct Turn {
    role: String,
    content: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Stop {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
struct Scaled {
    id: String,
    #[serde(default = "full")]
    scale: f32,
}

fn full() -> f32 {
    1.0
}

/// An answer on its way: its events, and an end to the request when nobody listens any more.
struct Answer {
    events: UnboundedReceiver<Event>,
    _cancel: CancelOnDrop,
    n_prompt: usize,
    id: String,
    chat: bool,
}

struct CancelOnDrop(Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// What is wrong with a request.
struct Refusal(StatusCode, String);

impl<E: Error> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self(StatusCode::BAD_REQUEST, error.to_string())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, Json(error_body(&self.1))).into_response()
    }
}

fn error_body(message: &str) -> Value {
    json!({"error": {"message": message, "type": "invalid_request_error"}})
}

impl Server {
    /// The edits that a request names.
    fn edits(&self, jola: &Option<Value>) -> Result<Option<Arc<EditSet>>, Refusal> {
        let unknown = |name: &str| {
            let message = format!("there is no edit `{name}`; GET /v1/jola lists them");
            Refusal(StatusCode::BAD_REQUEST, message)
        };
        match jola {
            None => Ok(None),
            Some(Value::String(name)) => {
                let edits = self.alone.get(name).ok_or_else(|| unknown(name))?;
                Ok(Some(edits.clone()))
            }
            Some(list) => {
                let scaled: Vec<Scaled> = Deserialize::deserialize(list).map_err(|error| {
                    let message =
                        format!("`jola` is neither a name nor a list of id and scale: {error}");
                    Refusal(StatusCode::BAD_REQUEST, message)
                })?;
                let mut pairs = Vec::new();
                for Scaled { id, scale } in scaled {
                    let sidecar = self.sidecars.get(&id).ok_or_else(|| unknown(&id))?;
                    pairs.push((sidecar, scale));
                }
                Ok(Some(Arc::new(self.model.compose(&pairs)?)))
            }
        }
    }

    /// Hands a request to the thread with the context.
    fn submit(&self, body: Body) -> Result<Answer, Refusal> {
        let edits = self.edits(&body.jola)?;
        let chat = body.messages.is_some();
        let prompt = match (body.prompt, body.messages) {
            (Some(text), None) => Prompt::Plain(text),
            (None, Some(turns)) => {
                let turns = turns.into_iter().map(|t| Message::new(t.role, t.content));
                Prompt::from(turns.collect::<Vec<_>>())
            }
            _ => {
                let message = "give either prompt or messages".to_owned();
                return Err(Refusal(StatusCode::BAD_REQUEST, message));
            }
        };
        let prompt = self
            .model
            .tokenize_prompt(&prompt.text(self.template.as_ref())?)?;
        let greedy = SamplerParams::greedy();
        let cancel = Cancel::default();
        let n_prompt = prompt.len();
        let request = Request {
            edits,
            n_predict: body.max_tokens.unwrap_or(256),
            sampling: SamplerParams {
                temp: body.temperature.unwrap_or(greedy.temp),
                top_p: body.top_p.unwrap_or(greedy.top_p),
                seed: body.seed.unwrap_or(greedy.seed),
                ..greedy
            },
            stop: match body.stop {
                None => Vec::new(),
                Some(Stop::One(stop)) => vec![stop],
                Some(Stop::Many(stops)) => stops,
            },
            cancel: cancel.clone(),
            ..Request::new(prompt)
        };
        let (tell, events) = unbounded_channel();
        let sink = Box::new(move |event| tell.send(event).is_ok());
        self.submit.send((request, sink)).map_err(|_| {
            let message = "the model cannot be used any more".to_owned();
            Refusal(StatusCode::SERVICE_UNAVAILABLE, message)
        })?;
        let number = self.next_id.fetch_add(1, Ordering::Relaxed);
        Ok(Answer {
            events,
            _cancel: CancelOnDrop(cancel),
            n_prompt,
            id: format!("jola-{number}"),
            chat,
        })
    }

    /// What stands in every answer, and in every piece of one.
    fn object(&self, id: &str, kind: &str, choice: Value) -> Value {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        json!({
            "id": id,
            "object": kind,
            "created": since.map_or(0, |since| since.as_secs()),
            "model": self.model.path().file_stem().map(|name| name.to_string_lossy()),
            "choices": [choice],
        })
    }

    async fn whole(&self, mut answer: Answer) -> Result<Value, Refusal> {
        let (mut said, mut n_tokens) = (String::new(), 0);
        while let Some(event) = answer.events.recv().await {
            match event {
                Event::Token { text, .. } => {
                    said += &text;
                    n_tokens += 1;
                }
                Event::End { end, text } => {
                    said += &text;
                    let (kind, mut choice) = match answer.chat {
                        true => (
                            "chat.completion",
                            json!({"message": {"role": "assistant", "content": said}}),
                        ),
                        false => ("text_completion", json!({"text": said})),
                    };
                    choice["index"] = 0.into();
                    choice["finish_reason"] = finish_reason(end).into();
                    let mut object = self.object(&answer.id, kind, choice);
                    object["usage"] = json!({
                        "prompt_tokens": answer.n_prompt,
                        "completion_tokens": n_tokens,
                        "total_tokens": answer.n_prompt + n_tokens,
                    });
                    return Ok(object);
                }
                Event::Failed(error) => return Err(error.into()),
            }
        }
        let message = "the model cannot be used any more".to_owned();
        Err(Refusal(StatusCode::SERVICE_UNAVAILABLE, message))
    }

    /// A piece of an answer, in OpenAI's form.
    fn piece(&self, id: &str, chat: bool, event: Event) -> Value {
        let (text, end) = match event {
            Event::Token { text, .. } => (text, None),
            Event::End { end, text } => (text, Some(finish_reason(end))),
            Event::Failed(error) => return error_body(&error.to_string()),
        };
        match chat {
            true => {
                let choice = json!({"index": 0, "delta": {"content": text}, "finish_reason": end});
                self.object(id, "chat.completion.chunk", choice)
            }
            false => {
                let choice = json!({"index": 0, "text": text, "finish_reason": end});
                self.object(id, "text_completion", choice)
            }
        }
    }
}

fn finish_reason(end: End) -> &'static str {
    match end {
        End::Model | End::Stop => "stop",
        End::Length | End::ContextFull | End::Cancelled => "length",
    }
}

async fn complete(State(server): State<Arc<Server>>, body: String) -> Result<Response, Refusal> {
    // Read as text, so that a client need not say that it is JSON.
    let body: Body = serde_json::from_str(&body)?;
    let stream = body.stream;
    let answer = server.submit(body)?;
    if !stream {
        return Ok(Json(server.whole(answer).await?).into_response());
    }
    let Answer {
        events,
        _cancel: cancel,
        id,
        chat,
        ..
    } = answer;
    let pieces = UnboundedReceiverStream::new(events).map(move |event| {
        // Kept until the stream is dropped: at its end, or when the client leaves.
        let _ = &cancel;
        server.piece(&id, chat, event).to_string()
    });
    let lines = pieces.chain(tokio_stream::once("[DONE]".to_owned()));
    let lines = lines.map(|data| Ok::<_, Infallible>(sse::Event::default().data(data)));
    Ok(Sse::new(lines).into_response())
}

async fn list(State(server): State<Arc<Server>>) -> Json<Value> {
    let names = server.sidecars.keys().map(|name| json!({"id": name}));
    Json(names.collect())
}

/// The sidecars of a folder, by their names without `.gguf`.
fn read_sidecars(folder: &Path) -> Result<BTreeMap<String, Sidecar>, Box<dyn Error>> {
    let mut sidecars = BTreeMap::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "gguf")
        {
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            sidecars.insert(name.into_owned(), Sidecar::read(&path)?);
        }
    }
    Ok(sidecars)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let (base, folder, address) = match args.as_slice() {
        [base, folder] => (base, folder, "127.0.0.1:8080"),
        [base, folder, address] => (base, folder, address.as_str()),
        _ => return Err("usage: server BASE.gguf FOLDER-OF-EDITS [ADDRESS]".into()),
    };
    let model = Model::load(base, &ModelParams::default())?;
    let sidecars = read_sidecars(Path::new(folder))?;
    let mut alone = BTreeMap::new();
    for (name, sidecar) in &sidecars {
        // Checks that the edit was made for this model.
        let edits = model.compose(&[(sidecar, 1.0)])?;
        alone.insert(name.clone(), Arc::new(edits));
    }
    let mut context = Context::new(
        &model,
        &ContextParams {
            n_seq_max: PARALLEL,
            n_ctx: 2048,
            ..ContextParams::default()
        },
    )?;
    let (submit, submissions) = mpsc::channel();
    // One thread has the context. It ends with the last sender, or when llama.cpp fails.
    std::thread::spawn(move || {
        if let Err(error) = serve(&mut context, submissions) {
            eprintln!("error: {error}");
        }
    });
    let server = Arc::new(Server {
        template: ChatTemplate::from_model(&model).ok(),
        model,
        sidecars,
        alone,
        submit,
        next_id: AtomicU64::new(0),
    });
    let app = Router::new()
        .route("/v1/completions", post(complete))
        .route("/v1/chat/completions", post(complete))
        .route("/v1/jola", get(list))
        .with_state(server);
    let listener = tokio::net::TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app).await?;
    Ok(())
}
