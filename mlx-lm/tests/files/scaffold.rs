//! `new-family` starts a family where the list keeps its order, and refuses what is there.

use mlx_lm::scaffold::new_family;
use std::fs;
use std::path::Path;

#[test]
fn a_new_family_is_a_file_a_name_in_the_list_and_a_case() {
    let root = tempfile::tempdir().unwrap();
    let families = root.path().join("mlx-lm/src/families");
    fs::create_dir_all(&families).unwrap();
    let list = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/families/mod.rs");
    let before = fs::read_to_string(list).unwrap();
    fs::write(families.join("mod.rs"), &before).unwrap();
    for name in ["marvin", "aardvark", "zz9"] {
        let made = new_family(root.path(), name).unwrap();
        let source = fs::read_to_string(&made.family).unwrap();
        assert!(source.contains(&format!("&[\"{name}\"]")) && !source.contains("NAME"), "{source}");
        let case: serde_json::Value = serde_json::from_slice(&fs::read(&made.case).unwrap()).unwrap();
        assert_eq!((&case["case"], &case["config"]["model_type"]), (&name.into(), &name.into()));
        assert!(new_family(root.path(), name).unwrap_err().to_string().contains("is there already"));
    }
    let after = fs::read_to_string(families.join("mod.rs")).unwrap();
    let names = |text: &str| -> Vec<String> {
        let list = text.split("\nfamilies! {\n").nth(1).unwrap().split('}').next().unwrap();
        list.lines().map(|l| l.trim().trim_end_matches(',').to_owned()).filter(|l| !l.is_empty()).collect()
    };
    let mut want = names(&before);
    want.extend(["marvin", "aardvark", "zz9"].map(String::from));
    want.sort();
    assert_eq!(names(&after), want);
    for bad in ["", "Mine", "9lives", "../x", "a-b", "llama", "qwen3"] {
        assert!(new_family(root.path(), bad).is_err(), "{bad:?}");
    }
    assert!(new_family(&root.path().join("elsewhere"), "other").unwrap_err().to_string().contains("families"));
}
