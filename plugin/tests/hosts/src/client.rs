//! What hosts are asked, and how their answers are read.

use std::io::BufRead;
use std::time::Duration;

use anyhow::{bail, ensure, Context as _, Result};
use serde_json::{json, Value};

/// Longest wait for one answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(600);

/// What a host made of one prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// The greedy continuation.
    pub tokens: Vec<i32>,
    /// For each of them: the likeliest tokens in its place with their log-probabilities.
    pub top: Vec<Vec<(i32, f64)>>,
    /// Tokens of the prompt that were taken from the prompt cache, where the host says so.
    pub cached: u64,
}

/// What a request asks for besides the prompt.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Most tokens to generate.
    pub n_predict: usize,
    /// Likeliest tokens to report for each.
    pub n_probs: usize,
    /// Whether the server may reuse what it has cached of the prompt.
    pub cache_prompt: bool,
}

/// Asks a llama-server.
#[derive(Clone)]
pub struct Client {
    agent: ureq::Agent,
    url: String,
}

impl Client {
    /// A client of the server at `url`.
    pub fn new(url: String) -> Self {
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(ANSWER_LIMIT))
            .http_status_as_error(false)
            .build()
            .into();
        Self { agent, url }
    }

    /// Whether the server is ready.
    pub fn is_ready(&self) -> bool {
        let health = self.agent.get(format!("{}/health", self.url)).call();
        health.is_ok_and(|answer| answer.status() == 200)
    }

    /// Sends `body` to `path`.
    ///
    /// # Errors
    /// Also when the server answers with another status than 200.
    pub fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let mut answer = self
            .agent
            .post(format!("{}{path}", self.url))
            .header("Content-Type", "application/json")
            .send(body.to_string())?;
        let text = answer
            .body_mut()
            .with_config()
            .limit(1 << 28)
            .read_to_string()?;
        ensure!(
            answer.status() == 200,
            "{path} answered {}: {text}",
            answer.status()
        );
        Ok(serde_json::from_str(&text)?)
    }

    /// The greedy continuation of `prompt`.
    pub fn complete(&self, prompt: &[i32], request: Request) -> Result<Completion> {
        self.complete_with(prompt, request, &json!({}))
    }

    /// The same with adapters of these scales, by their numbers.
    pub fn complete_under(
        &self,
        prompt: &[i32],
        request: Request,
        scales: &[f32],
    ) -> Result<Completion> {
        self.complete_with(prompt, request, &json!({"lora": adapters(scales)}))
    }

    /// The same with further fields in the request.
    pub fn complete_with(
        &self,
        prompt: &[i32],
        request: Request,
        more: &Value,
    ) -> Result<Completion> {
        let mut body = json!({
            "prompt": prompt,
            "n_predict": request.n_predict,
            "n_probs": request.n_probs,
            "temperature": 0,
            "return_tokens": true,
            "cache_prompt": request.cache_prompt,
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            body[key] = value.clone();
        }
        from_server(&self.post("/completion", &body)?)
    }

    /// Sets the scales of adapters for requests that name none.
    pub fn set_adapters(&self, scales: &[f32]) -> Result<()> {
        let answer = self.post("/lora-adapters", &adapters(scales))?;
        ensure!(answer["success"] == json!(true), "{answer}");
        Ok(())
    }

    /// What a request without a body is answered.
    pub fn get(&self, path: &str) -> Result<Value> {
        let mut answer = self.agent.get(format!("{}{path}", self.url)).call()?;
        Ok(serde_json::from_str(&answer.body_mut().read_to_string()?)?)
    }
}

/// Adapters of these scales, by their numbers, as llama-server takes them.
fn adapters(scales: &[f32]) -> Value {
    let entry = |(id, scale): (usize, &f32)| json!({"id": id, "scale": scale});
    scales.iter().enumerate().map(entry).collect()
}

/// The next line of `output`, which must be JSON.
pub fn read_line(output: &mut impl BufRead) -> Result<Value> {
    let mut line = String::new();
    if output.read_line(&mut line)? == 0 {
        bail!("the host closed its output");
    }
    serde_json::from_str(&line).with_context(|| format!("the host printed {line:?}"))
}

/// What a script answered.
pub fn from_script(answer: &Value) -> Result<Completion> {
    Ok(Completion {
        tokens: serde_json::from_value(answer["tokens"].clone())?,
        top: serde_json::from_value(answer["top"].clone())?,
        cached: 0,
    })
}

fn from_server(answer: &Value) -> Result<Completion> {
    let tokens: Vec<i32> = serde_json::from_value(answer["tokens"].clone())
        .with_context(|| format!("no tokens in {answer}"))?;
    let entry = |entry: &Value| -> Option<(i32, f64)> {
        Some((
            i32::try_from(entry["id"].as_i64()?).ok()?,
            entry["logprob"].as_f64()?,
        ))
    };
    let places = answer["completion_probabilities"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    let top = places
        .iter()
        .map(|place| {
            place["top_logprobs"]
                .as_array()?
                .iter()
                .map(entry)
                .collect()
        })
        .collect::<Option<_>>()
        .with_context(|| format!("no log-probabilities in {answer}"))?;
    let cached = answer["timings"]["cache_n"].as_u64().unwrap_or(0);
    Ok(Completion {
        tokens,
        top,
        cached,
    })
}
