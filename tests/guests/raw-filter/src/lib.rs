//! A filter that breaks the rules of the interface itself, with nothing between it and the host that keeps them: its exports
//! and imports are written by hand. Its configuration is one word.

#[cfg(target_family = "wasm")]
#[allow(static_mut_refs, reason = "there is one thread")]
mod guest {
    // For the description of the world in the module; of what it generates only `cabi_realloc` is used.
    #[allow(dead_code, reason = "nothing is exported through it")]
    mod generated {
        wit_bindgen::generate!({ path: "../../../wit/v0.1", world: "filter-plugin", generate_all });
    }

    #[link(wasm_import_module = "tailweir:plugin/records@0.1.0")]
    unsafe extern "C" {
        #[link_name = "[method]batch.len"]
        fn batch_len(handle: i32) -> i32;
        #[link_name = "[method]batch.values-joined"]
        fn batch_values_joined(handle: i32, pointers: *const [usize; 2], len: usize, answer: *mut [usize; 4]);
        #[link_name = "[resource-drop]batch"]
        fn drop_batch(handle: i32);
    }

    /// What `evaluate` and `init` answer: a discriminant, and the payload of the second case.
    #[repr(C)]
    struct Answer {
        case: u32,
        payload: [usize; 3],
    }

    static mut ANSWER: Answer = Answer { case: 0, payload: [0; 3] };
    static mut DESCRIPTION: [usize; 8] = [0; 8];
    static mut WORD: String = String::new();
    /// The handle of the first batch.
    static mut KEPT: Option<i32> = None;

    fn answer(case: u32, payload: [usize; 3]) -> *const Answer {
        // SAFETY: there is one thread, and the host reads it before the next call.
        unsafe {
            ANSWER = Answer { case, payload };
            &raw const ANSWER
        }
    }

    #[unsafe(export_name = "tailweir:plugin/lifecycle@0.1.0#describe")]
    extern "C" fn describe() -> *const [usize; 8] {
        let name = "raw-filter";
        let version = "0.1.0";
        // SAFETY: there is one thread, and the host reads it before the next call.
        unsafe {
            DESCRIPTION =
                [name.as_ptr() as usize, name.len(), version.as_ptr() as usize, version.len(), 0, 0, 0, 0];
            &raw const DESCRIPTION
        }
    }

    #[unsafe(export_name = "tailweir:plugin/lifecycle@0.1.0#init")]
    extern "C" fn init(config: *mut u8, len: usize) -> *const Answer {
        // SAFETY: the host has had this memory allocated by `cabi_realloc`, and filled it with UTF-8.
        unsafe { WORD = String::from_raw_parts(config, len, len).trim_matches('"').to_owned() };
        answer(0, [0; 3])
    }

    #[unsafe(export_name = "tailweir:plugin/filter@0.1.0#evaluate")]
    extern "C" fn evaluate(handle: i32) -> *const Answer {
        // SAFETY: there is one thread; what is wrong with the handles and pointers is for the host to notice.
        unsafe {
            match &*WORD {
                // Goes on holding the batch.
                "keep" => return answer(0, [0; 3]),
                // Uses the batch of the call before.
                "later" => {
                    drop_batch(handle);
                    match KEPT {
                        Some(kept) => _ = batch_len(kept),
                        None => KEPT = Some(handle),
                    }
                    return answer(0, [0; 3]);
                }
                // Asks for every record as often as it may in one call.
                "hoard" => {
                    let pointers = vec![[1, 0]; 4096];
                    let mut joined = [0; 4];
                    batch_values_joined(handle, pointers.as_ptr(), pointers.len(), &raw mut joined);
                }
                // Asks for an element far back as often as it may: the answer is small, the work is not.
                "pester" => {
                    let field = "/a/999999";
                    let pointers = vec![[field.as_ptr() as usize, field.len()]; 4096];
                    let mut joined = [0; 4];
                    batch_values_joined(handle, pointers.as_ptr(), pointers.len(), &raw mut joined);
                }
                // Asks for more fields at once than it may.
                "crave" => {
                    let pointers = vec![[1, 0]; 4097];
                    let mut joined = [0; 4];
                    batch_values_joined(handle, pointers.as_ptr(), pointers.len(), &raw mut joined);
                }
                // Asks for a field by a name that says something else on a line of its own, and goes on for ever.
                "rave" => {
                    let field = "x\nERROR forged\u{1b}[2J".to_owned() + &"x".repeat(4000);
                    let pointers = [[field.as_ptr() as usize, field.len()]];
                    let mut joined = [0; 4];
                    batch_values_joined(handle, pointers.as_ptr(), pointers.len(), &raw mut joined);
                }
                // Asks for a field that is deeper than any.
                "delve" => {
                    let field = "/".repeat(4000);
                    let pointers = [[field.as_ptr() as usize, field.len()]];
                    let mut joined = [0; 4];
                    batch_values_joined(handle, pointers.as_ptr(), pointers.len(), &raw mut joined);
                }
                // Answers with an error whose text is nowhere in its memory.
                "nowhere" => {
                    drop_batch(handle);
                    return answer(1, [usize::MAX - 7, 4096, 0]);
                }
                // Answers with a case that there is not.
                "nonsense" => {
                    drop_batch(handle);
                    return answer(7, [0; 3]);
                }
                _ => {}
            }
            drop_batch(handle);
        }
        answer(0, [0; 3])
    }
}
