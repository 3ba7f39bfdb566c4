use mlx::{self as mx, Array, Dtype, array};

#[test]
fn weak_scalars_take_the_dtype_of_the_array() {
    let bf = array!([1.0, 2.0]).astype(Dtype::Bfloat16);
    assert_eq!((&bf * 2.0).dtype(), Dtype::Bfloat16);
    assert_eq!((&bf * array!(2.0)).dtype(), Dtype::Float32);
    let i = array!([1, 2]);
    assert_eq!((&i * 2.5).dtype(), Dtype::Float32);
    assert_eq!((&i + 1).to_vec::<i32>().unwrap(), [2, 3]);
    assert_eq!((1.0 - &i).to_vec::<f32>().unwrap(), [0.0, -1.0]);
    assert!(mx::catch(|| array!([1u8]) + 300).unwrap_err().to_string().contains("does not fit"));
}

#[test]
fn a_failing_op_names_itself_and_the_shapes_and_does_not_disturb_the_next() {
    let e = mx::catch(|| Array::from([1.0f32, 2.0]) + Array::from([1.0f32, 2.0, 3.0])).unwrap_err().to_string();
    assert!(e.contains("[add]") && e.contains("[2]") && e.contains("[3]"), "{e}");
    assert_eq!((array!(1.0) + 1.0).item::<f32>().unwrap(), 2.0);
}

#[test]
fn reading_converts_within_a_kind_only() {
    let a = array!([1.5, 2.5]);
    assert!(a.to_vec::<i32>().unwrap_err().to_string().contains("astype"));
    assert_eq!(a.astype(Dtype::Float16).to_vec::<f64>().unwrap(), [1.5, 2.5]);
    let t = array!([[1, 2, 3], [4, 5, 6]]).t();
    assert_eq!(t.to_vec::<i32>().unwrap(), [1, 4, 2, 5, 3, 6]);
    let b = Array::from_slice(&[2u8, 0, 255], 3).view(Dtype::Bool);
    assert_eq!(b.to_vec::<bool>().unwrap(), [true, false, true]);
    assert!(array!([1, 2]).item::<i32>().is_err());
}

#[test]
fn update_axis_writes_in_place() {
    let mut cache = mx::zeros([1, 4, 2], Dtype::Float32);
    cache.update_axis(1, 1..2, &array!([[[7.0, 8.0]]]));
    assert_eq!(cache.to_vec::<f32>().unwrap(), [0., 0., 7., 8., 0., 0., 0., 0.]);
    assert!(mx::catch(|| cache.clone().update_axis(1, 3..5, &mx::zeros([1, 2, 2], Dtype::Float32))).is_err());
}

#[test]
fn arrays_print_as_in_python() {
    assert_eq!(array!([[1, 2], [3, 4]]).to_string(), "array([[1, 2],\n       [3, 4]], dtype=int32)");
    assert_eq!(array!([true, false]).to_string(), "array([True, False], dtype=bool)");
    assert_eq!(format!("{:.2}", array!([1.0, 0.333333])), "array([1.00, 0.33], dtype=float32)");
    assert_eq!(format!("{}", array!(0.5)), "array(0.5, dtype=float32)");
    assert_eq!(format!("{:?}", array!([0.5]) + 1.0), "Array([1], float32)");
}

#[test]
fn a_thread_can_choose_its_default_stream() {
    let run = || {
        let s = mx::Stream::new(mx::Device::Cpu).unwrap();
        mx::set_default_stream(&s).unwrap();
        assert_eq!(mx::default_stream(), s);
        let other = mx::Stream::new(mx::Device::Cpu).unwrap();
        mx::with_stream(&other, || assert_eq!((array!([1.0]) + 1.0).item::<f32>().unwrap(), 2.0));
        assert_eq!((array!([1.0]) + 1.0).item::<f32>().unwrap(), 2.0);
    };
    std::thread::spawn(run).join().unwrap();
}
