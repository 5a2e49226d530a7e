//! The example is what holds without a file, and what is wrong with a file is told by line and field.

use super::*;

fn parse(text: &str) -> Result<Config, Wrong> {
    Config::parse(text, Path::new("agent.toml"))
}

#[test]
fn the_example_says_what_holds_without_it() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/systemd/agent.toml");
    let example = Config::read(&path).unwrap();
    assert_eq!(example, Config::default());
    // And it says all of it: no default is only in the code, but for those that depend on the machine.
    let text = std::fs::read_to_string(path).unwrap();
    let written: toml::Table = toml::from_str(&text).unwrap();
    let all = toml::Table::try_from(Config::default()).unwrap();
    assert_eq!(written, all);
    assert_eq!(Config::default().policy(), Policy::default());
    assert_eq!(Config::default().ceilings(), Ok(Ceilings::default()));
    assert_eq!(Config::default().quota(), Quota::default());
}

#[test]
fn what_is_wrong_is_told_by_line_and_field_with_what_is_allowed() {
    for (text, words) in [
        ("run-dir = \"/x\"\n[limits]\nleses = 3\n", &["line 3", "limits", "`leses`", "did you mean `leases`?"][..]),
        ("rundir = \"/x\"\n", &["line 1", "`rundir`", "did you mean `run-dir`?"]),
        ("[limits]\nleases = \"many\"\n", &["line 2", "limits.leases", "expected usize"]),
        ("\n[limits]\n\nleases = 0\n", &["line 4", "limits.leases", "1 or more"]),
        ("[times]\ngrace = \"10\"\n", &["line 2", "times.grace", "10s, 5m or 2h"]),
        ("[socket]\nmode = \"0999\"\n", &["line 2", "socket.mode", "\"0660\""]),
        ("[socket]\ngroup = \"no such group\"\n", &["line 2", "socket.group", "getent group"]),
        ("[classes]\neverybody = \"urgnt\"\n", &["line 2", "classes.everybody", "did you mean `urgent`?"]),
        ("[classes.users]\n\"no such user\" = \"low\"\n", &["line 1", "classes.users", "getent passwd"]),
        ("[margin]\npercent = 101\n", &["line 2", "margin.percent", "0 to 100"]),
        ("[over-lease]\nbatch = \"1s\"\nbtch = \"1s\"\n", &["line 3", "over-lease", "did you mean `batch`?"]),
        ("[pressure.high]\navailable-percent = 30\nleft-mib = 384\n", &["pressure.high", "before moderate"]),
        ("[pressure]\nclean-in = [\"models\"]\n", &["line 2", "pressure.clean-in", "absolute"]),
        ("[margin\n", &["line 1"]),
        ("a = 1\na = 2\n", &["line 2", "duplicate key"]),
    ] {
        let wrong = parse(text).unwrap_err().to_string();
        assert!(
            wrong.starts_with("agent.toml, line ") && words.iter().all(|word| wrong.contains(word)),
            "{text}: {wrong}"
        );
    }
}

#[test]
fn what_is_not_said_is_as_without_a_file() {
    let said = parse("[notice]\nhigh = \"20s\"\n[classes.groups]\n\"0\" = \"batch\"\n").unwrap();
    assert_eq!(said.policy().notice[Class::High.rank()], Span::from_secs(20));
    assert_eq!(said.policy().notice[Class::Urgent.rank()], Policy::default().notice[Class::Urgent.rank()]);
    assert_eq!(said.ceilings().unwrap().groups, [(0, Class::Batch)].into());
    assert_eq!(parse("").unwrap(), Config::default());
}
