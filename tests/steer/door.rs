//! A transparent door with nothing behind it: tells each client what the gate knows of its connection, and resets those
//! that it must refuse.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use outgate::net::{Listener, OwnAddresses, bind_tcp, bind_transparent, original_dst, reset};
use outgate::steer::Intercept;

use crate::world::{Namespace, enter};

pub struct Door {
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    refused: Arc<Mutex<Vec<String>>>,
}

impl Door {
    /// Opens on every address of the namespace, IPv4 and IPv6; `interface` ties the listeners to one.
    pub fn open(namespace: &Namespace, port: u16, interface: Option<&str>) -> Self {
        Self::of(Intercept::Redirect, namespace, port, interface)
    }

    /// The same for what comes to it in this way.
    pub fn of(intercept: Intercept, namespace: &Namespace, port: u16, interface: Option<&str>) -> Self {
        let bind = if intercept == Intercept::Tproxy { bind_transparent } else { bind_tcp };
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (ready, is_ready) = mpsc::channel();
        let refused: Arc<Mutex<Vec<String>>> = Arc::default();
        let log = refused.clone();
        let (path, interface) = (namespace.path(), interface.map(str::to_owned));
        let thread = std::thread::spawn(move || {
            enter(&path);
            let addresses = [format!("0.0.0.0:{port}"), format!("[::]:{port}")];
            let bound =
                addresses.map(|at| bind(at.parse::<SocketAddr>().unwrap(), interface.as_deref()).unwrap());
            let own = Arc::new(OwnAddresses::read().unwrap());
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let [v4, v6] = bound.map(|door| door.listen(own.clone()).unwrap());
                ready.send(()).unwrap();
                let serve = async { tokio::join!(serve(v4, &own, &log), serve(v6, &own, &log)) };
                tokio::select! { _ = serve => {}, _ = stopped => {} }
            });
        });
        is_ready.recv().unwrap();
        Self { stop: Some(stop), thread: Some(thread), refused }
    }

    pub fn refused(&self) -> Vec<String> {
        self.refused.lock().unwrap().clone()
    }
}

async fn serve(door: Listener, own: &OwnAddresses, refused: &Mutex<Vec<String>>) {
    loop {
        let accepted = door.accept().await.unwrap();
        match original_dst(&accepted.stream, accepted.delivery, own) {
            Ok(target) => {
                let interface = accepted.ingress.shown();
                let mut stream = accepted.stream.into_std().unwrap();
                let _ = write!(stream, "{target} from {} on {interface}", accepted.client.0.ip());
            }
            Err(error) => {
                reset(accepted.stream);
                refused.lock().unwrap().push(error.to_string());
            }
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
