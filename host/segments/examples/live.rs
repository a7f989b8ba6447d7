//! How long a record takes from the writer's flush to the output of a command:
//! `live DIR COUNT [GAP_MS] -- COMMAND…`. The command prints each record of DIR as a line.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tailweir_segments::{Writer, WriterOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let split = args.iter().position(|a| a == "--").ok_or("usage: live DIR COUNT [GAP_MS] -- COMMAND…")?;
    let (mine, command) = (&args[..split], &args[split + 1..]);
    let count: usize = mine[1].parse()?;
    let gap = Duration::from_millis(mine.get(2).map_or(Ok(5), |gap| gap.parse())?);
    let writer = Writer::new(WriterOptions::new(&mine[0]))?;
    let mut child = Command::new(&command[0]).args(&command[1..]).stdout(Stdio::piped()).spawn()?;
    let mut output = BufReader::new(child.stdout.take().ok_or("no pipe")?);
    let mut line = String::new();
    let mut took = Vec::new();
    for n in 0..count + 20 {
        std::thread::sleep(gap);
        writer.write_line(format!("{{\"n\":{n},\"pad\":\"{}\"}}", "x".repeat(1000)).as_bytes())?;
        writer.flush()?;
        let flushed = Instant::now();
        line.clear();
        if output.read_line(&mut line)? == 0 {
            return Err("the command has ended".into());
        }
        if n >= 20 {
            took.push(flushed.elapsed());
        }
    }
    child.kill()?;
    child.wait()?;
    took.sort_unstable();
    let at = |part: f64| took[((took.len() - 1) as f64 * part) as usize];
    eprintln!("p50 {:?} p90 {:?} p99 {:?} max {:?}", at(0.5), at(0.9), at(0.99), at(1.0));
    Ok(())
}
