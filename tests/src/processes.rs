//! Function processes of the local AWS, to be killed. Only there: on AWS nobody reaches them.

use std::fs;
use std::process::Command;

/// Kills this function's processes of our local AWS with SIGKILL, at work or idle; tells how many.
///
/// # Panics
/// If the environment names no local AWS.
pub fn kill(function: &str) -> usize {
    let endpoint = std::env::var("AWS_ENDPOINT_URL").unwrap_or_default();
    assert!(
        endpoint.starts_with("http://127.0.0.1:"),
        "processes can be killed on the local AWS only, not at {endpoint:?}"
    );
    let processes = processes(function, &endpoint);
    let killed = processes.iter().filter(|pid| {
        // One that has just ended cannot be killed.
        let status = Command::new("kill").args(["-KILL", pid.as_str()]).status();
        status.is_ok_and(|status| status.success())
    });
    killed.count()
}

fn processes(function: &str, endpoint: &str) -> Vec<String> {
    let name = format!("{function}Function-");
    let is_ours = |pid: &String| {
        let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        if read("comm") != b"bootstrap\n" {
            return false;
        }
        let environment = String::from_utf8_lossy(&read("environ")).into_owned();
        let value = |key: &str| {
            let mut variables = environment.split('\0');
            variables.find_map(|variable| variable.strip_prefix(key)?.strip_prefix('='))
        };
        value("AWS_ENDPOINT_URL") == Some(endpoint)
            && value("AWS_LAMBDA_FUNCTION_NAME").is_some_and(|found| found.contains(&name))
    };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
        .filter(is_ours)
        .collect()
}
