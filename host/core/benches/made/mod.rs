//! Records to measure with, of the size and shape of KumoMTA's.

use std::fmt::Write as _;

/// That many of them, as lines.
pub(crate) fn records(count: usize) -> String {
    let mut text = String::new();
    for n in 0..count {
        let (pool, kind) = (["customer-a", "customer-b", "shared"][n % 3], ["Delivery", "Bounce"][n % 5 / 4]);
        writeln!(
            text,
            concat!(
                r#"{{"type":"{kind}","id":"{n:032x}","sender":"bounces+{n}@mail.example.com","recipient":"user{n}@example.net","#,
                r#""queue":"campaign:tenant@example.net","site":"source2->(alt1|alt2)?.gmail-smtp-in.l.google.com@smtp_client","#,
                r#""size":{n},"response":{{"code":250,"enhanced_code":{{"class":2,"subject":0,"detail":0}},"#,
                r#""content":"OK  {n} a640c23a62f3a-ac2 - gsmtp","command":null}},"peer_address":{{"name":"gmail-smtp-in.l.google.com.","#,
                r#""addr":"142.251.2.27"}},"timestamp":1757674081,"event_time":"2025-09-12T10:48:01.440526026Z","created":1757674081,"#,
                r#""created_time":"2025-09-12T10:48:01.139526026Z","num_attempts":0,"bounce_classification":"Uncategorized","#,
                r#""egress_pool":"{pool}","egress_source":"source2","source_address":{{"address":"10.0.0.1:53210"}},"#,
                r#""feedback_report":null,"meta":{{"tenant":"tenant","campaign":"campaign"}},"headers":{{"Subject":"Hello \"{n}\""}},"#,
                r#""delivery_protocol":"ESMTP","reception_protocol":"ESMTP","nodeid":"557f3ad4-2c8c-11ee-976e-782d7e12e173","#,
                r#""tls_cipher":"TLS_AES_256_GCM_SHA384","tls_protocol_version":"TLSv1.3","tls_peer_subject_name":["C=US","CN=mx.google.com"],"#,
                r#""provider_name":"google","session_id":"0d1d9c5e-4a8c-4f6c-9c3a-2a1d3f0e5b6f"}}"#
            ),
            kind = kind,
            n = n,
            pool = pool,
        )
        .unwrap();
    }
    text
}
