//! `memboss vram top`: the live screen's loop: what the agent tells and what keys are pressed, in whatever order they come. It draws nothing itself.

use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use crossterm::event::{Event, EventStream, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use futures::StreamExt as _;
use memboss_agent_api::v1::{StatusRequest, StatusResponse};
use ratatui::DefaultTerminal;
use serde::Serialize;
use tokio::sync::mpsc;

use super::look;
use super::screen::Screen;
use crate::agent::{Sockets, answer};
use crate::exit::Failure;
use crate::output::{Colours, Output};
use crate::{plain, show};

/// How long until a lost agent is asked again.
const AGAIN: Duration = Duration::from_secs(1);

/// What the agent tells, or why it does not.
type News = Result<StatusResponse, Failure>;

/// What the screen shows, for programs.
#[derive(Debug, Serialize)]
struct Everything {
    #[serde(flatten)]
    machine: plain::Machine,
    leases: Vec<plain::Lease>,
}

pub(crate) async fn run(sockets: &Sockets, output: Output) -> Result<()> {
    // Asked once before the screen is taken: where nothing is to be seen, a sentence is worth more.
    let status = sockets.status().await?;
    let screens = output.is_text() && std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    if !screens {
        let both = Everything { machine: plain::machine(&status), leases: plain::leases(&status.leases) };
        return output.say(&both, || {
            format!("{}\n\n{}", show::machine(&status, look(output)), show::leases(&status.leases, look(output)))
        });
    }
    let (told, mut news) = mpsc::channel(1);
    let listener = tokio::spawn(listen(sockets.clone(), told));
    let mut terminal = ratatui::try_init().context("failed to take the terminal's screen")?;
    let shown = show_until_quit(&mut terminal, Screen { status, ..Screen::default() }, &mut news).await;
    let restored = ratatui::try_restore().context("failed to give the terminal back");
    listener.abort();
    shown.and(restored)
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
                Some(Ok(status)) => {
                    (screen.status, screen.trouble) = (status, None);
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
        if told.send(Ok(status)).await.is_err() {
            break;
        }
    }
    ended()
}
