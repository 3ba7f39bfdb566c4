use mlx::{self as mx, Array, Dtype, array};

fn data(name: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

#[test]
fn files_that_python_wrote_run_here() {
    let f = mx::import_function(data("python.mlxfn")).unwrap();
    let out = f.call(&[array!([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]), array!([1.0, 2.0, 3.0, 4.0])]).unwrap();
    assert_eq!(out[0].to_vec::<f32>().unwrap(), [10.0, 12.0, 14.0, 16.0, 18.0, 20.0]);
    assert!((out[1].to_vec::<f32>().unwrap()[2] - 0.66524096).abs() < 1e-6);
    let e = f.call(&[array!([1.0])]).unwrap_err().to_string();
    assert!(e.contains("python.mlxfn"), "{e}");

    let f = mx::import_function(data("python_kwargs.mlxfn")).unwrap();
    let kwargs = [("scale".to_string(), array!(3.0))].into();
    assert_eq!(
        f.call_kwargs(&[array!([1.0, 2.0, 3.0])], &kwargs).unwrap()[0].to_vec::<f32>().unwrap(),
        [4.0, 7.0, 10.0]
    );

    let f = mx::import_function(data("python_shapes.mlxfn")).unwrap();
    for n in [2, 5] {
        assert_eq!(f.call(&[mx::zeros([n], Dtype::Float32)]).unwrap()[0].item::<f32>().unwrap(), n as f32);
    }
    assert!(f.call(&[mx::zeros([3], Dtype::Float32)]).is_err());
}

#[test]
fn exported_functions_come_back_with_several_shapes_and_names() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f %s%n.mlxfn");
    let w = array!([2.0, 3.0]);
    {
        let mut e = mx::Exporter::new(&path, |a: &[Array]| vec![a[0].matmul(&w)], false).unwrap();
        e.trace(&[mx::zeros([1, 2], Dtype::Float32)]).unwrap();
        e.trace(&[mx::zeros([3, 2], Dtype::Float32)]).unwrap();
    }
    let f = mx::import_function(&path).unwrap();
    assert_eq!(f.call(&[array!([[1.0, 1.0]])]).unwrap()[0].to_vec::<f32>().unwrap(), [5.0]);
    assert_eq!(f.call(&[mx::ones([3, 2], Dtype::Float32)]).unwrap()[0].shape(), [3]);

    let path = dir.path().join("k.mlxfn");
    let kwargs: mx::Kwargs = [("b".to_string(), array!([1.0]))].into();
    mx::export_function_kwargs(&path, |a, k| vec![&a[0] * 2.0 + &k["b"]], &[array!([1.0])], &kwargs, true).unwrap();
    let f = mx::import_function(&path).unwrap();
    assert_eq!(f.call_kwargs(&[array!([5.0])], &kwargs).unwrap()[0].to_vec::<f32>().unwrap(), [11.0]);
}

#[test]
fn python_reads_what_is_exported_here() {
    // needs a Python with mlx: MLX_PYTHON names one
    let Some(python) = std::env::var_os("MLX_PYTHON") else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rust.mlxfn");
    mx::export_function(&path, |a| vec![(&a[0] * 3.0).exp()], &[array!([1.0, 2.0])], false).unwrap();
    let code = "import mlx.core as mx,sys; print(mx.import_function(sys.argv[1])(mx.array([0.,0.]))[0].tolist())";
    let out = std::process::Command::new(python).args(["-c", code]).arg(&path).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stdout).trim(), "[1.0, 1.0]", "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn broken_files_and_functions_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let garbage = dir.path().join("garbage.mlxfn");
    std::fs::write(&garbage, [7u8; 100]).unwrap();
    let e = mx::import_function(&garbage).err().unwrap().to_string();
    assert!(e.contains("garbage.mlxfn"), "{e}");
    assert!(mx::import_function(dir.path().join("none")).is_err());
    assert!(mx::export_function(dir.path().join("no/dir.mlxfn"), |a| a.to_vec(), &[array!(1.0)], false).is_err());
    let bad = mx::catch(|| {
        mx::export_function(
            dir.path().join("p.mlxfn"),
            |a| vec![&a[0] + array!([1.0, 2.0])],
            &[array!([1.0, 2.0, 3.0])],
            false,
        )
    });
    assert!(bad.unwrap_err().to_string().contains("[add]"));
    assert!(mx::import_function("nul\0").is_err());
}

#[test]
fn graphs_are_drawn_in_dot() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("g.dot");
    let (a, b) = (array!([1.0]), array!([2.0]));
    let y = (&a + &b).exp();
    mx::export_to_dot(&path, &[y], &[("left", &a)]).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("digraph") && text.contains("left") && text.contains("Exp"), "{text}");
    assert!(mx::export_to_dot(dir.path().join("no/g.dot"), &[a], &[]).is_err());
}
