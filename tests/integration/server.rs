//! The example server, as its clients have it.

use std::io::{BufRead as _, Read as _, Write as _};
use std::net::TcpStream;

use serde_json::Value;
use testkit::{example, text, Folder};

use crate::base::f32_base;

/// The example server, on a port of its own, until it is dropped. Its weights are 32-bit
/// floats: quantised ones round by the batch, and with them a near tie falls either way.
pub struct Server {
    child: std::process::Child,
    address: String,
}

impl Server {
    pub fn start(folder: &Folder) -> Self {
        let mut child = std::process::Command::new(example("server"))
            .args([text(f32_base()), text(folder.root()), "127.0.0.1:0"])
            .env("OMP_WAIT_POLICY", "passive")
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on http://").unwrap();
        Self {
            address: address.to_owned(),
            child,
        }
    }

    /// Sends a request and leaves its answer to be read.
    pub fn send(&self, path: &str, body: &Value) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let body = body.to_string();
        write!(
            stream,
            "POST {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        stream
    }

    /// The status and the body of an answer.
    pub fn post(&self, path: &str, body: &Value) -> (u32, String) {
        let mut answer = String::new();
        self.send(path, body).read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, body.to_owned())
    }

    /// Resident memory in KiB.
    pub fn resident(&self) -> i64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.unwrap()
            .trim()
            .trim_end_matches(" kB")
            .parse()
            .unwrap()
    }

    /// The text of a completion.
    pub fn text(&self, body: &Value) -> String {
        let (status, answer) = self.post("/v1/completions", body);
        assert_eq!(status, 200, "{answer}");
        let answer: Value = serde_json::from_str(&answer).unwrap();
        answer["choices"][0]["text"].as_str().unwrap().to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
