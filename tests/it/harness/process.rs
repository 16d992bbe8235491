//! Child processes that never outlive the test, and their output.

use std::{ffi::OsStr, process::Stdio, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::{Child, ChildStdin, Command},
    sync::watch,
    time::timeout,
};

/// Runs `$@` and ends it when our standard input closes, which the kernel does even
/// after SIGKILL. It also is a parent that stays: Envoy asks the kernel for SIGTERM as
/// soon as the *thread* that spawned it ends, and test threads end.
const KEEPER: &str = r#"
exec 3<&0
{ echo "$BASHPID"; exec "$@" </dev/null 3<&-; } &
child=$!
cat <&3 >/dev/null 2>&1 &
watch=$!
wait -n
{ kill -KILL "$child" "$watch"; wait "$child"; } 2>/dev/null
"#;

/// How long a process may take for anything we wait for.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running program and all it has printed so far.
pub(crate) struct Process {
    name: String,
    id: u32,
    keeper: Child,
    stdin: Option<ChildStdin>,
    stdout: watch::Receiver<Output>,
    stderr: watch::Receiver<Output>,
}

#[derive(Default)]
struct Output {
    lines: Vec<String>,
    ended: bool,
}

// === impl Process ===

impl Process {
    /// Starts `program` and returns once it has a process id.
    pub(crate) async fn start<A: AsRef<OsStr>>(program: &OsStr, arguments: &[A]) -> Self {
        let name = program.to_string_lossy().into_owned();
        let mut keeper = Command::new("bash")
            .args(["-c", KEEPER, "keeper"])
            .arg(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C is for us; it ends the rest in order.
            .process_group(0)
            .spawn()
            .expect("start bash");
        let stdin = keeper.stdin.take();
        let stdout = collect(keeper.stdout.take().expect("piped"));
        let stderr = collect(keeper.stderr.take().expect("piped"));
        let mut process = Self { name, id: 0, keeper, stdin, stdout, stderr };
        process.id = process.wait_stdout("process id", |line| line.parse().ok()).await;
        process
    }

    /// Everything printed to standard error so far.
    pub(crate) fn stderr(&self) -> Vec<String> {
        self.stderr.borrow().lines.clone()
    }

    /// Everything printed to standard output so far.
    pub(crate) fn stdout(&self) -> Vec<String> {
        // The keeper's first line is the process id.
        self.stdout.borrow().lines.iter().skip(1).cloned().collect()
    }

    /// Waits for a line on standard error of which `find` makes something.
    pub(crate) async fn wait_stderr<T>(&self, what: &str, find: impl Fn(&str) -> Option<T>) -> T {
        self.wait(self.stderr.clone(), what, find).await
    }

    /// Waits for a line on standard output of which `find` makes something.
    pub(crate) async fn wait_stdout<T>(&self, what: &str, find: impl Fn(&str) -> Option<T>) -> T {
        self.wait(self.stdout.clone(), what, find).await
    }

    async fn wait<T>(
        &self,
        mut output: watch::Receiver<Output>,
        what: &str,
        find: impl Fn(&str) -> Option<T>,
    ) -> T {
        let found = |output: &Output| output.lines.iter().find_map(|line| find(line));
        let arrived = output.wait_for(|output| output.ended || found(output).is_some());
        let result = timeout(PATIENCE, arrived).await.ok().and_then(Result::ok);
        match result.as_deref().and_then(found) {
            Some(value) => value,
            None => {
                drop(result);
                panic!("{}: no {what}; it said:\n{}", self.name, self.stderr().join("\n"))
            }
        }
    }

    /// Whether it has closed its standard error: it is gone, or as good as.
    pub(crate) fn ended(&self) -> bool {
        self.stderr.borrow().ended
    }

    /// Sends a signal, by name without `SIG`.
    pub(crate) fn signal(&self, name: &str) {
        // The shell's own `kill`: a small machine may lack the program.
        let status = std::process::Command::new("bash")
            .args(["-c", r#"kill -s "$0" "$1""#, name, &self.id.to_string()])
            .status()
            .expect("start bash");
        assert!(status.success(), "{}: signal {name} failed", self.name);
    }

    /// The most memory that it has had at once, in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id));
        let status = status.expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
        kib.expect("a number of kB") * 1024
    }

    /// Waits for the process to end by itself and returns its exit code; a signal that
    /// killed it counts as 128 more than its number.
    pub(crate) async fn exit_code(&mut self) -> i32 {
        self.exit_code_within(PATIENCE).await
    }

    /// The same, for a process that may take that long.
    pub(crate) async fn exit_code_within(&mut self, patience: Duration) -> i32 {
        let status = timeout(patience, self.keeper.wait()).await;
        let Ok(status) = status else {
            panic!("{}: still running; it said:\n{}", self.name, self.stderr().join("\n"))
        };
        let code = status.expect("wait for the keeper").code().expect("bash exits with a code");
        // What it said last may still be on its way.
        for output in [&mut self.stdout, &mut self.stderr] {
            let ended = timeout(PATIENCE, output.wait_for(|output| output.ended)).await;
            assert!(ended.is_ok(), "{}: left its output open", self.name);
        }
        code
    }

    /// Kills the process and waits until it is gone.
    pub(crate) async fn kill(&mut self) {
        drop(self.stdin.take());
        self.exit_code().await;
    }
}

fn collect(stream: impl AsyncRead + Unpin + Send + 'static) -> watch::Receiver<Output> {
    let (sender, receiver) = watch::channel(Output::default());
    tokio::spawn(async move {
        let mut lines = BufReader::new(stream).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            sender.send_modify(|output| output.lines.push(line));
        }
        sender.send_modify(|output| output.ended = true);
    });
    receiver
}
