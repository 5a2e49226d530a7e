//! `memboss vram top`: the live screen's loop: what is told and what keys are pressed, in whatever order they come. It draws nothing itself.

use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use crossterm::event::{Event, EventStream, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use futures::StreamExt as _;
use memboss_agent_api::v1::StatusRequest;
use ratatui::DefaultTerminal;
use serde::Serialize;
use tokio::sync::mpsc;

use super::look;
use super::screen::Screen;
use crate::agent::{Sockets, answer};
use crate::cluster::{Picture, Wanted};
use crate::exit::Failure;
use crate::output::{Colours, Output};
use crate::way::{Server, Way};
use crate::{plain, show};

/// How long until a lost agent is asked again.
const AGAIN: Duration = Duration::from_secs(1);

/// What is told, or why nothing is.
type News = Result<Picture, Failure>;

/// What the screen shows, for programs.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Shown {
    /// Of one machine.
    Machine(Everything),
    /// Of a cluster.
    Cluster { machines: Vec<plain::Machine>, leases: Vec<plain::Lease> },
}

/// A machine and its leases.
#[derive(Debug, Serialize)]
struct Everything {
    #[serde(flatten)]
    machine: plain::Machine,
    leases: Vec<plain::Lease>,
}

pub(crate) async fn run(way: Way, output: Output) -> Result<()> {
    // Asked once before the screen is taken: where nothing is to be seen, a sentence is worth more.
    let (picture, name) = match &way {
        Way::Socket(sockets) => {
            let status = sockets.status().await?;
            let name = status.node.clone();
            (Picture::from(status), name)
        }
        Way::Api(server) => (server.picture().await?, server.url.clone()),
    };
    let screens = output.is_text() && std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    if !screens {
        return once(&way, &picture, output);
    }
    let (told, mut news) = mpsc::channel(1);
    let listener = tokio::spawn(async move {
        match way {
            Way::Socket(sockets) => listen(sockets, told).await,
            Way::Api(server) => watch(&server, told).await,
        }
    });
    let mut terminal = ratatui::try_init().context("failed to take the terminal's screen")?;
    let screen = Screen { picture, name, ..Screen::default() };
    let shown = show_until_quit(&mut terminal, screen, &mut news).await;
    let restored = ratatui::try_restore().context("failed to give the terminal back");
    listener.abort();
    shown.and(restored)
}

fn once(way: &Way, picture: &Picture, output: Output) -> Result<()> {
    let look = look(output);
    match (way, picture.machines.as_slice()) {
        (Way::Socket(_), [machine]) => {
            let both = Everything { machine: plain::machine(machine), leases: plain::leases(&machine.leases) };
            output.say(&Shown::Machine(both), || {
                format!("{}\n\n{}", show::machine(machine, look), show::leases(&machine.leases, look))
            })
        }
        (_, machines) => {
            let plain = machines.iter().map(plain::machine).collect();
            output.say(&Shown::Cluster { machines: plain, leases: plain::placed(&picture.leases) }, || {
                format!("{}\n\n{}", show::machines(machines, look), show::placed(&picture.leases, look))
            })
        }
    }
}

async fn show_until_quit(
    terminal: &mut DefaultTerminal,
    mut screen: Screen,
    news: &mut mpsc::Receiver<News>,
) -> Result<()> {
    let colours = Colours::of_stdout();
    let mut keys = EventStream::new();
    loop {
        terminal.draw(|frame| screen.draw(frame, colours)).context("failed to draw")?;
        tokio::select! {
            told = news.recv() => match told {
                Some(Ok(picture)) => {
                    (screen.picture, screen.trouble) = (picture, None);
                    screen.scroll(0);
                }
                Some(Err(failure)) => screen.trouble = Some(failure.to_string()),
                None => return Ok(()),
            },
            event = keys.next() => match event {
                Some(Ok(Event::Key(key))) if key.kind != KeyEventKind::Release => match key {
                    key if quits(key) => return Ok(()),
                    KeyEvent { code: KeyCode::Down | KeyCode::Char('j'), .. } => screen.scroll(1),
                    KeyEvent { code: KeyCode::Up | KeyCode::Char('k'), .. } => screen.scroll(-1),
                    KeyEvent { code: KeyCode::PageDown, .. } => screen.scroll(10),
                    KeyEvent { code: KeyCode::PageUp, .. } => screen.scroll(-10),
                    _ => {}
                },
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error).context("failed to read keys"),
                None => return Ok(()),
            },
        }
    }
}

fn quits(key: KeyEvent) -> bool {
    let interrupts = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
    interrupts || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc)
}

/// Listens to the agent, and to the next one when it has ended.
async fn listen(sockets: Sockets, told: mpsc::Sender<News>) {
    loop {
        let failure = follow(&sockets, &told).await;
        if told.send(Err(failure)).await.is_err() {
            return;
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn follow(sockets: &Sockets, told: &mpsc::Sender<News>) -> Failure {
    let ended = || Failure::NoAgent(format!("the agent at {} has ended", sockets.socket.display()));
    let states = async {
        let mut agent = sockets.leases().await?;
        answer(&sockets.socket, agent.watch_status(StatusRequest {})).await
    };
    let mut states = match states.await {
        Ok(states) => states,
        Err(failure) => return failure,
    };
    while let Ok(Some(status)) = states.message().await {
        if told.send(Ok(status.into())).await.is_err() {
            break;
        }
    }
    ended()
}

/// Listens to the API server, which is asked again by itself.
async fn watch(server: &Server, told: mpsc::Sender<News>) {
    let mut pictures = server.watch(Wanted::All);
    while let Some(news) = pictures.next().await {
        if told.send(news).await.is_err() {
            return;
        }
    }
}
