//! RFC 7677's exchange, both sides against each other, and everything that must fail.

use proptest::prelude::*;

use super::client::{ClientBinding, ClientExchange};
use super::server::{Binding, ServerExchange};
use super::*;

const RFC_SALT: &str = "W22ZaJ0SNY7soEsUEjb6gQ==";
const RFC_CLIENT_NONCE: &str = "rOprNGfwEbeRWgbNEkqO";
const RFC_SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
const RFC_CLIENT_FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                                p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
const RFC_SERVER_FINAL: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

fn rfc_verifier() -> Verifier {
    Verifier::of_password("pencil", BASE64.decode(RFC_SALT).unwrap(), 4096)
}

fn verifier(password: &str) -> Verifier {
    Verifier::of_password(password, b"0123456789abcdef".to_vec(), 2)
}

fn keys(password: &str, salt: &[u8], iterations: u32) -> Keys {
    Keys::of_salted(&salted_password(password, salt, iterations))
}

#[test]
fn the_exchange_of_rfc_7677() {
    let client = ClientExchange::start_with_nonce(ClientBinding::None, "user", RFC_CLIENT_NONCE.to_owned());
    assert_eq!(client.first(), "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
    let first = client.first().as_bytes();
    let server =
        ServerExchange::start_with_nonce(rfc_verifier(), first, Binding::NotOffered, RFC_SERVER_NONCE)
            .unwrap();
    let expected = format!("r={RFC_CLIENT_NONCE}{RFC_SERVER_NONCE},s={RFC_SALT},i=4096");
    assert_eq!(server.first(), expected);
    let challenge = client.challenged(server.first().as_bytes()).unwrap();
    let (answer, proven) = challenge.answer(&keys("pencil", &BASE64.decode(RFC_SALT).unwrap(), 4096));
    assert_eq!(answer, RFC_CLIENT_FINAL);
    let (server_final, revealed) = server.finish(answer.as_bytes()).unwrap();
    assert_eq!(server_final, RFC_SERVER_FINAL);
    proven.verify(server_final.as_bytes()).unwrap();
    assert_eq!(revealed.keys, keys("pencil", &revealed.salt, revealed.iterations));
}

#[test]
fn a_verifier_is_read_and_written() {
    let text = rfc_verifier().to_string();
    assert_eq!(
        text,
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:\
         wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
    );
    assert_eq!(Verifier::parse(&text), Some(rfc_verifier()));
    assert!(rfc_verifier().fits("pencil") && !rfc_verifier().fits("pencils"));
    for wrong in
        ["", "md5", "SCRAM-SHA-256$", "SCRAM-SHA-256$0:YQ==$YQ==:YQ==", "SCRAM-SHA-256$1:YQ==$YQ==:YQ=="]
    {
        assert_eq!(Verifier::parse(wrong), None, "{wrong}");
    }
    assert!(!format!("{:?} {:?}", rfc_verifier(), keys("a", b"b", 1)).contains("WG5d"));
}

/// Runs an exchange; `relay` may change the messages of the client on their way.
fn exchange(
    binding: (ClientBinding<'_>, Binding<'_>),
    passwords: (&str, &str),
    relay: impl Fn(&str) -> String,
) -> Result<ScramKeys, ScramError> {
    let client = ClientExchange::start(binding.0);
    let server = ServerExchange::start(verifier(passwords.1), relay(client.first()).as_bytes(), binding.1)?;
    let challenge = client.challenged(server.first().as_bytes())?;
    let keys = keys(passwords.0, &challenge.salt, challenge.iterations);
    let (answer, proven) = challenge.answer(&keys);
    let (server_final, revealed) = server.finish(relay(&answer).as_bytes())?;
    proven.verify(server_final.as_bytes())?;
    Ok(revealed)
}

#[test]
fn channel_binding_binds() {
    let same = str::to_owned;
    let ok = |client, server| exchange((client, server), ("x", "x"), same);
    let (ours, theirs) = ([1_u8; 32], [2_u8; 32]);
    assert!(ok(ClientBinding::None, Binding::NotOffered).is_ok());
    assert!(ok(ClientBinding::None, Binding::Declined).is_ok());
    assert!(ok(ClientBinding::NotOffered, Binding::NotOffered).is_ok());
    assert!(ok(ClientBinding::EndPoint(&ours), Binding::EndPoint(&ours)).is_ok());
    let downgraded = ok(ClientBinding::NotOffered, Binding::Declined).unwrap_err();
    assert!(matches!(downgraded, ScramError::ChannelBinding(_)));
    let another = ok(ClientBinding::EndPoint(&ours), Binding::EndPoint(&theirs)).unwrap_err();
    assert!(matches!(another, ScramError::ChannelBinding(_)));
    assert!(ok(ClientBinding::None, Binding::EndPoint(&ours)).is_err());
    assert!(ok(ClientBinding::EndPoint(&ours), Binding::NotOffered).is_err());
    assert!(ok(ClientBinding::EndPoint(&ours), Binding::Declined).is_err());
    let other_type = |text: &str| text.replace("tls-server-end-point", "tls-unique");
    let unsupported =
        exchange((ClientBinding::EndPoint(&ours), Binding::EndPoint(&ours)), ("x", "x"), other_type);
    assert!(matches!(unsupported, Err(ScramError::Unsupported(_))));
}

#[test]
fn wrong_passwords_and_changed_messages_fail() {
    let plain = (ClientBinding::None, Binding::NotOffered);
    assert_eq!(exchange(plain, ("x", "y"), str::to_owned).unwrap_err(), ScramError::WrongProof);
    let authorization = |text: &str| text.replace("n,,", "n,a=root,");
    assert!(matches!(exchange(plain, ("x", "x"), authorization), Err(ScramError::Unsupported(_))));
    let extension = |text: &str| text.replace("n,,n=", "n,,m=1,n=");
    assert!(matches!(exchange(plain, ("x", "x"), extension), Err(ScramError::Unsupported(_))));
    let changes: [fn(&str) -> String; 5] = [
        |text| text.replace("r=", "s="),
        |text| text.replace(",p=", ",q="),
        |text| text.replace("c=", "c=A"),
        |text| text.replace(",p=", ",p=A"),
        |_| String::new(),
    ];
    for change in changes {
        assert!(exchange(plain, ("x", "x"), change).is_err());
    }
    assert_eq!(keys("ª", b"s", 1), keys("a", b"s", 1), "SASLprep maps compatibility characters");
}

#[test]
fn a_node_that_does_not_know_the_password_is_noticed() {
    let client = ClientExchange::start(ClientBinding::None);
    let server =
        ServerExchange::start(verifier("x"), client.first().as_bytes(), Binding::NotOffered).unwrap();
    let challenge = client.challenged(server.first().as_bytes()).unwrap();
    let (_, proven) = challenge.answer(&keys("x", b"0123456789abcdef", 2));
    let forged = format!("v={}", BASE64.encode([7; 32]));
    for answer in [forged.as_str(), "v=", "e=other-error", ""] {
        assert!(proven.verify(answer.as_bytes()).is_err());
    }
    for first in ["r=short,s=YQ==,i=1", "", "r=,s=,i=", "s=YQ==,i=1"] {
        assert!(ClientExchange::start(ClientBinding::None).challenged(first.as_bytes()).is_err());
    }
    let client = ClientExchange::start_with_nonce(ClientBinding::None, "", "abc".to_owned());
    assert!(client.challenged(b"r=abcd,s=YQ==,i=4294967295").is_err(), "rounds without end");
}

#[test]
fn a_mock_is_stable_and_fits_nothing() {
    let secret = [3; 32];
    let mock = Verifier::mock("nobody", &secret);
    assert_eq!(mock, Verifier::mock("nobody", &secret));
    assert_ne!(mock.salt, Verifier::mock("somebody", &secret).salt);
    assert_eq!((mock.salt.len(), mock.iterations), (16, DEFAULT_ITERATIONS));
}

proptest! {
    #[test]
    fn no_message_panics(first in "[nyp]?(=[a-z-]*)?,(a=)?,n=[^\0]{0,5},r=[!-~]{0,9}|\\PC*", last in "c=[A-Za-z=]{0,8},r=\\PC*|\\PC*") {
        for binding in [Binding::NotOffered, Binding::Declined, Binding::EndPoint(&[1; 32])] {
            if let Ok(server) = ServerExchange::start(verifier("x"), first.as_bytes(), binding) {
                prop_assert!(server.finish(last.as_bytes()).is_err());
            }
        }
        let _ = ClientExchange::start(ClientBinding::None).challenged(first.as_bytes());
        let _ = Verifier::parse(&format!("SCRAM-SHA-256${last}"));
    }
}
