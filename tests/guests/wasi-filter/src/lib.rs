//! A filter that uses all the WASI that it gets, as guests of some languages do.

#[cfg(target_family = "wasm")]
mod guest {
    use serde::Deserialize;
    use tailweir_guest::{Batch, Verdict};

    wit_bindgen::generate!({
        path: "../../../wit/v0.1",
        inline: "
            package tailweir:wasi-filter;
            world capabilities {
                import wasi:cli/environment@0.2.12;
                import wasi:cli/stderr@0.2.12;
                import wasi:cli/stdin@0.2.12;
                import wasi:cli/exit@0.2.12;
                import wasi:clocks/wall-clock@0.2.12;
                import wasi:clocks/monotonic-clock@0.2.12;
                import wasi:filesystem/preopens@0.2.12;
                import wasi:random/random@0.2.12;
                import wasi:sockets/instance-network@0.2.12;
                import wasi:sockets/tcp-create-socket@0.2.12;
                import wasi:sockets/ip-name-lookup@0.2.12;
            }
        ",
        world: "tailweir:wasi-filter/capabilities",
        generate_all,
    });

    use wasi::cli::{environment, exit, stderr, stdin};
    use wasi::clocks::{monotonic_clock, wall_clock};
    use wasi::filesystem::preopens;
    use wasi::random::random;
    use wasi::sockets::network::IpAddressFamily;
    use wasi::sockets::{instance_network, ip_name_lookup, tcp_create_socket};

    #[derive(Deserialize)]
    #[serde(tag = "do", rename_all = "kebab-case")]
    enum Config {
        /// Answers an error that says what it can reach.
        Tell,
        /// Writes to stderr, then exits.
        Die,
        /// Sleeps for a minute.
        Sleep,
        /// Takes handles and never gives one back.
        Leak,
    }

    fn keep(_: &Batch, config: &Config) -> Result<Verdict, String> {
        match config {
            Config::Tell => Err(tell()),
            Config::Die => {
                stderr::get_stderr().blocking_write_and_flush(b"first line\nfatal: out of ideas\n").unwrap();
                exit::exit(Err(()));
                Ok(Verdict::All)
            }
            Config::Sleep => {
                monotonic_clock::subscribe_duration(60_000_000_000).block();
                Ok(Verdict::All)
            }
            Config::Leak => loop {
                std::mem::forget(monotonic_clock::subscribe_duration(1));
            },
        }
    }

    tailweir_guest::filter!(keep);

    fn tell() -> String {
        let network = instance_network::instance_network();
        format!(
            "environment {:?}, arguments {:?}, folders {}, stdin {}, sockets {}, names {}, time {}, random {}",
            environment::get_environment(),
            environment::get_arguments(),
            preopens::get_directories().len(),
            if stdin::get_stdin().blocking_read(1).is_err() { "closed" } else { "open" },
            if tcp_create_socket::create_tcp_socket(IpAddressFamily::Ipv4).is_err() {
                "none"
            } else {
                "some"
            },
            if ip_name_lookup::resolve_addresses(&network, "localhost").is_err() { "none" } else { "some" },
            if wall_clock::now().seconds > 0 { "yes" } else { "no" },
            if random::get_random_bytes(8).len() == 8 { "yes" } else { "no" },
        )
    }
}
